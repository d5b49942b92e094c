"""Stage ``reward``: a CLIP of class ``open_clip.CLIP`` trained on preferences, in the layout of an HPS checkpoint."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from tools.tiny.common import Averaged, Progress, cosine_lr, take_step
from tools.tiny.tokenizers import clip_tokenizer
from vipo.scenes.draw import Drawing, draw
from vipo.scenes.grammar import (
    BACKGROUNDS,
    COLORS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    random_scene,
)

CONTEXT = 18
MODEL = {
    'embed_dim': 64,
    'vision_cfg': {'image_size': 64, 'layers': 4, 'width': 96, 'head_width': 32, 'patch_size': 8},
    'text_cfg': {'context_length': CONTEXT, 'vocab_size': 0, 'width': 96, 'heads': 3, 'layers': 3},
}
#: How often each kind of flaw is drawn for the picture that is not preferred.
FLAWS = {
    'color': 3,
    'shape': 3,
    'size': 1,
    'placement': 3,
    'missing': 2,
    'extra': 2,
    'ground': 1,
    'pixels': 4,
    'other': 1,
}


def _other(rng: random.Random, options, current: str) -> str:
    return rng.choice([o for o in options if o != current])


def flawed(scene: Scene, flaw: str, rng: random.Random) -> Scene:
    """The scene with one thing wrong; what cannot be flawed that way gets a wrong colour."""
    things = list(scene.objects)
    k = rng.randrange(len(things))
    if flaw == 'shape':
        things[k] = replace(things[k], shape=_other(rng, SHAPES, things[k].shape))
    elif flaw == 'size':
        things[k] = replace(things[k], size=_other(rng, SIZES, things[k].size))
    elif flaw == 'placement':
        terms = POSITIONS if len(things) == 1 else RELATIONS
        return replace(scene, placement=_other(rng, terms, scene.placement))
    elif flaw == 'missing' and len(things) == 2:
        return replace(scene, objects=(things[k],), placement=rng.choice(POSITIONS))
    elif flaw == 'extra' and len(things) == 1:
        guest = SceneObject(rng.choice(SIZES), _other(rng, COLORS, things[0].color), rng.choice(SHAPES))
        relation = {'left': 'left of', 'right': 'right of', 'top': 'above', 'bottom': 'below'}
        return replace(scene, objects=(things[0], guest), placement=relation.get(scene.placement, 'left of'))
    elif flaw == 'ground':
        if rng.random() < 0.5:
            return replace(scene, texture=_other(rng, TEXTURES, scene.texture))
        return replace(scene, background=_other(rng, BACKGROUNDS, scene.background))
    elif flaw == 'other':
        return random_scene(rng)
    else:
        things[k] = replace(things[k], color=_other(rng, COLORS, things[k].color))
    return replace(scene, objects=tuple(things))


def _warp(pixels: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth random displacement, ``strength`` (B,) in units of half the picture."""
    if len(pixels) == 0:
        return pixels
    batch, _, side, _ = pixels.shape
    flow = F.interpolate(
        torch.randn(batch, 2, 6, 6, generator=generator), size=(side, side), mode='bicubic', align_corners=False
    )
    base = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), list(pixels.shape), align_corners=False)
    grid = base + flow.permute(0, 2, 3, 1) * strength[:, None, None, None]
    return F.grid_sample(pixels, grid, mode='bilinear', padding_mode='border', align_corners=False)


def _blur(pixels: Tensor) -> Tensor:
    if len(pixels) == 0:
        return pixels
    return F.interpolate(F.interpolate(pixels, scale_factor=0.2, mode='area'), size=pixels.shape[-2:], mode='bilinear')


def spoil(pixels: Tensor, amount: float | Tensor, generator: torch.Generator) -> Tensor:
    """A generator's pixel flaws: melted shapes, washed colours, ghosts, noise. ``amount`` 1 spoils, 0.1 is harmless."""
    kind = torch.randint(5, (len(pixels),), generator=generator)
    amounts = amount * (0.5 + torch.rand(len(pixels), generator=generator))
    ghost = pixels.roll(1, 0)
    out = pixels.clone()
    for k in range(5):
        chosen = kind == k
        x, s = pixels[chosen], amounts[chosen]
        cast = s[:, None, None, None]
        if k == 0:
            x = _warp(x, 0.10 * s, generator)
        elif k == 1:
            x = torch.lerp(x, x.mean(1, keepdim=True), (0.6 * cast).clamp(max=1))
        elif k == 2:
            x = torch.lerp(x, ghost[chosen], (0.35 * cast).clamp(max=0.5))
        elif k == 3:
            x = x + 0.16 * cast * torch.randn(x.shape, generator=generator)
        else:
            x = torch.lerp(x, _blur(x), (0.9 * cast).clamp(max=1))
        out[chosen] = x
    return out.clamp(0, 1)


def _layers(drawing: Drawing) -> tuple[Tensor, Tensor]:
    """Coverage ``(B, 1, S, S)`` of all objects, and their colours times it."""
    cover = 1 - (1 - drawing.masks).prod(1, keepdim=True)
    return cover, drawing.pixels - drawing.ground * (1 - cover)


def melt(drawing: Drawing, generator: torch.Generator) -> Tensor:
    """The objects lose their shape; the ground stays as it is."""
    strength = 0.04 + 0.08 * torch.rand(len(drawing.pixels), generator=generator)
    warped = _warp(torch.cat(_layers(drawing), dim=1), strength, generator)
    return drawing.ground * (1 - warped[:, :1]) + warped[:, 1:]


def cut(drawing: Drawing, generator: torch.Generator) -> Tensor:
    """A strip of ground runs through the first object."""
    batch, _, side, _ = drawing.pixels.shape
    grid = torch.arange(side, dtype=torch.float32)
    mass = drawing.masks[:, 0]
    y, x = ((mass.sum(d) * grid).sum(1) / mass.sum((1, 2)) for d in (2, 1))
    angle, width = torch.pi * torch.rand(batch, generator=generator), 1 + 1.5 * torch.rand(batch, generator=generator)
    dx, dy = grid[None, None, :] - x[:, None, None], grid[None, :, None] - y[:, None, None]
    across = (dx * angle.cos()[:, None, None] + dy * angle.sin()[:, None, None]).abs()
    strip = (width[:, None, None] + 0.5 - across).clamp(0, 1)[:, None] * mass[:, None].ceil()
    return torch.lerp(drawing.pixels, drawing.ground, strip)


def litter(drawing: Drawing, generator: torch.Generator) -> Tensor:
    """One to three specks in the colours of objects lie about."""
    pixels, (batch, _, side, _) = drawing.pixels, drawing.pixels.shape
    palette = torch.tensor(list(COLORS.values()))
    grid = torch.arange(side, dtype=torch.float32)
    for speck in range(3):
        place = side * (0.08 + 0.84 * torch.rand(batch, 2, 1, 1, generator=generator))
        radius = 1.5 + 2 * torch.rand(batch, 1, 1, generator=generator)
        distance = ((grid[None, None, :] - place[:, 0]).square() + (grid[None, :, None] - place[:, 1]).square()).sqrt()
        shown = torch.rand(batch, 1, 1, generator=generator) < (1.0, 0.6, 0.4)[speck]
        cover = (radius + 0.5 - distance).clamp(0, 1) * shown
        color = palette[torch.randint(len(palette), (batch,), generator=generator)]
        pixels = torch.lerp(pixels, color[..., None, None].expand_as(pixels), cover[:, None])
    return pixels


def stain(drawing: Drawing, generator: torch.Generator) -> Tensor:
    """The objects take on a part of another object colour, all over or in blotches."""
    batch, _, side, _ = drawing.pixels.shape
    cover, _ = _layers(drawing)
    field = torch.randn(batch, 1, 9, 9, generator=generator)
    field = F.interpolate(field, size=(side, side), mode='bicubic', align_corners=False)
    blotches = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.4, 1.0, (field * 2).sigmoid())
    palette = torch.tensor(list(COLORS.values()))
    color = palette[torch.randint(len(palette), (batch,), generator=generator)][..., None, None]
    strength = 0.25 + 0.45 * torch.rand(batch, 1, 1, 1, generator=generator)
    return torch.lerp(drawing.pixels, color.expand_as(drawing.pixels), cover * blotches * strength)


#: Flaws of a right scene that touch its objects alone.
OBJECT_FLAWS = {'melt': melt, 'cut': cut, 'litter': litter, 'stain': stain}


def relative(scene: Scene, axis: str, rng: random.Random) -> Scene:
    """The scene with other shapes, another placement, or (``any``) other shapes, sizes and placement."""
    terms = POSITIONS if len(scene.objects) == 1 else RELATIONS
    things = scene.objects
    if axis in ('shape', 'any'):
        things = tuple(replace(t, shape=rng.choice(SHAPES)) for t in things)
    if axis == 'any':
        things = tuple(replace(t, size=rng.choice(SIZES)) for t in things)
    placement = rng.choice(terms) if axis in ('placement', 'any') else scene.placement
    return replace(scene, objects=things, placement=placement)


def families(count: int, members: int, rng: random.Random) -> list[Scene]:
    """``count`` families of ``members`` near misses each, no two of which are one scene in other words.

    What tells relatives apart is what a batch of unrelated prompts never needs: there, colours and grounds suffice.
    """
    out: list[Scene] = []
    for _ in range(count):
        head, axis = random_scene(rng, 0.45), rng.choice(('shape', 'placement', 'any'))
        family: dict[str, Scene] = {}
        while len(family) < members:
            member = relative(head, axis, rng)
            family.setdefault(min(member.prompt, _in_other_words(member).prompt), member)
        out += family.values()
    return out


def _in_other_words(scene: Scene) -> Scene:
    return replace(scene.mirrored(), objects=scene.objects[::-1])


def batches(
    batch: int, seed: int, members: int = 4, wear: float = 0.4, flaws: dict[str, int] = FLAWS
) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """Endless ``(prompts, preferred (batch, 3, S, S), rejected (batch // 2, 3, S, S))``.

    The batch is made of families, so that each picture meets near misses among the others. The rejected pictures are
    those of the first half of the prompts with one thing wrong; where that is the pixels, they are worse than the
    preferred picture by a random amount. ``wear`` bounds how worn a preferred picture is.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    kinds, weights = list(flaws), list(flaws.values())
    while True:
        scenes = families(batch // members, members, rng)
        rng.shuffle(scenes)
        half = scenes[: batch // 2]
        chosen = rng.choices(kinds, weights, k=len(half))
        wrong = [s if f in ('pixels', *OBJECT_FLAWS) else flawed(s, f, rng) for s, f in zip(half, chosen, strict=True)]
        worn = wear * torch.rand(batch, generator=generator)
        worse = torch.tensor([f == 'pixels' for f in chosen]) * (0.3 + 0.7 * torch.rand(len(half), generator=generator))
        good = spoil(draw(scenes, rng.randrange(2**31)).pixels, worn, generator)
        bad = draw(wrong, rng.randrange(2**31))
        for kind, spoiler in OBJECT_FLAWS.items():
            hit = torch.tensor([f == kind for f in chosen])
            if hit.any():
                bad.pixels[hit] = spoiler(Drawing(bad.pixels[hit], bad.masks[hit], bad.ground[hit]), generator)
        bad = spoil(bad.pixels, worn[: len(half)] + worse, generator)
        yield [s.prompt for s in scenes], good, bad


def build(vocabulary: int):
    import open_clip

    text = {**MODEL['text_cfg'], 'vocab_size': vocabulary}
    return open_clip.CLIP(embed_dim=MODEL['embed_dim'], vision_cfg=MODEL['vision_cfg'], text_cfg=text)


def load(folder: Path):
    """The model and the tokenizer that :func:`save` wrote."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    model = build(len(tokenizer))
    model.load_state_dict(load_file(folder / 'open_clip_model.safetensors'))
    return model, tokenizer


def embed(model, tokenizer, pixels: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Unit vectors of pictures ``(N, 3, S, S)`` in [0, 1] and of prompts."""
    ids = tokenizer(prompts, padding='max_length', truncation=True, return_tensors='pt').input_ids
    return model.encode_image(_normalize(pixels), normalize=True), model.encode_text(ids, normalize=True)


def train(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """Contrastive loss over families of prompts with the rejected pictures as negatives, plus pairwise preference."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(CONTEXT)
    model = build(len(tokenizer))
    averaged = Averaged(model, 0.998)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps, 150))
    progress = Progress('reward', steps, 30)
    stream = batches(batch, seed)
    accuracy = 0.5
    for step in range(steps):
        prompts, good, bad = next(stream)
        images, texts = embed(model, tokenizer, torch.cat([good, bad]), prompts)
        scale = model.logit_scale.exp().clamp(max=40)
        logits = scale * texts @ images.T
        own = torch.arange(batch)
        paired = own[: len(bad)]
        pair = logits[paired, paired] - logits[paired, paired + batch]
        loss = F.cross_entropy(logits, own) + F.cross_entropy(logits[:, :batch].T, own) + F.softplus(-pair).mean()
        take_step(loss, model, optimizer, schedule, averaged)
        accuracy += ((pair > 0).float().mean().item() - accuracy) / min(step + 1, 50)
        progress(step, loss=loss.detach(), preference_accuracy=accuracy, scale=scale.detach())
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(averaged.module, tokenizer, out / 'tiny-hps')


def _normalize(pixels: Tensor) -> Tensor:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    return (pixels - mean) / std


def save(model, tokenizer, folder: Path) -> None:
    """Weights under open_clip's keys, its config file, and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / 'open_clip_model.safetensors')
    config = {'model_cfg': {**MODEL, 'text_cfg': {**MODEL['text_cfg'], 'vocab_size': len(tokenizer)}}}
    (folder / 'open_clip_config.json').write_text(json.dumps(config, indent=2) + '\n')
    tokenizer.save_pretrained(folder)
