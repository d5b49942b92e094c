"""Stage ``pick``: a second preference model, of another architecture and other scenes, in PickScore's layout.

No policy learns from it. A gain that the trained reward sees and this model does not is one that was made for the
reward's own taste.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tools.tiny.common import Averaged, Progress, cosine_lr, save_half, take_step
from tools.tiny.reward import CONTEXT, batches
from tools.tiny.taste import TASTE_FLAWS, draws, pairs
from tools.tiny.tokenizers import clip_tokenizer
from vipo.rewards.clip_towers import ClipTowers
from vipo.rewards.preprocess import resize_center_crop

#: It sees 60 pixels in patches of 6, where the trained reward sees 64 in patches of 8.
VISION = {
    'image_size': 60,
    'patch_size': 6,
    'hidden_size': 72,
    'intermediate_size': 216,
    'num_hidden_layers': 4,
    'num_attention_heads': 4,
    'hidden_act': 'gelu',
}
TEXT = {
    'max_position_embeddings': CONTEXT,
    'hidden_size': 56,
    'intermediate_size': 128,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'hidden_act': 'gelu',
}
#: Added to ``--seed``: it meets other scenes than the trained reward did.
OTHER_SCENES = 500_000


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    marks = {name: getattr(tokenizer, name) for name in ('bos_token_id', 'eos_token_id', 'pad_token_id')}
    text = {**TEXT, **marks, 'vocab_size': len(tokenizer)}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=48))


def train(out: Path, report: Path, steps: int, batch: int, seed: int, pool: int = 1152) -> None:
    """Both tasks of stages ``reward`` and ``taste`` at once, from the start, with the generator of ``polish``."""
    seed += OTHER_SCENES
    sampled = pairs(out, pool, seed)
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(CONTEXT)
    model = build(tokenizer)

    def tokenize(prompts: list[str]) -> Tensor:
        return tokenizer(prompts, padding=True, truncation=True, return_tensors='pt').input_ids

    towers = ClipTowers(model, tokenize, resize=partial(resize_center_crop, levels=True))
    averaged = Averaged(model, 0.995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: cosine_lr(s, steps, 150))
    drawings, attempts = batches(batch, seed, flaws=TASTE_FLAWS), draws(sampled, batch // 4, seed)
    progress = Progress('pick', steps, 30)
    right = won = 0.5
    for step in range(steps):
        prompts, good, bad = next(drawings)
        names, drawn, made = next(attempts)
        scale = model.logit_scale.exp().clamp(max=40)
        logits = scale * towers.text(prompts + names) @ towers.image(torch.cat([good, bad, drawn, made])).T
        own, half, extra = torch.arange(batch), torch.arange(len(bad)), torch.arange(len(names))
        among, first = logits[:batch, : batch + len(bad)], batch + len(bad)
        flaw = among[half, half] - among[half, half + batch]
        attempt = logits[batch + extra, first + extra] - logits[batch + extra, first + len(names) + extra]
        loss = F.cross_entropy(among, own) + F.cross_entropy(among[:, :batch].T, own)
        loss = loss + F.softplus(-flaw).mean() + 0.5 * F.softplus(-attempt).mean()
        take_step(loss, model, optimizer, schedule, averaged)
        right += ((flaw > 0).float().mean().item() - right) / min(step + 1, 50)
        won += ((attempt > 0).float().mean().item() - won) / min(step + 1, 50)
        progress(step, loss=loss.detach(), preference_accuracy=right, drawing_wins=won)
        if (step + 1) % 300 == 0 or step + 1 == steps:
            save_half(averaged.module, out / 'tiny-pick')
            tokenizer.save_pretrained(out / 'tiny-pick')
