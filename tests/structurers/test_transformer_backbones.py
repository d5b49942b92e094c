"""Backbones over vision transformers give what the library's own model gives, position by position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torchvision.transforms import InterpolationMode, Normalize, Resize

from vipo.structurers.backbones import CLIPBackbone, DINOv2Backbone, DINOv3Backbone, SigLIPBackbone
from vipo.structurers.backbones.attention import first_token_attention
from vipo.structurers.backbones.transformer import square
from vipo.structurers.backbones.twins import randomise, save_twin

IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = Normalize([0.5] * 3, [0.5] * 3)
INTERPOLATED = {'interpolate_pos_encoding': True}


@dataclass
class Family:
    """What is known of a family beside the code under test."""

    backbone: type
    model: type
    patch: int
    prefix: int
    colours: Normalize = IMAGENET
    extra: dict[str, Any] | None = None
    norm: str | None = None
    positions: str | None = None
    cls: bool = True


FAMILIES = {
    'dinov2': Family(
        DINOv2Backbone, transformers.Dinov2Model, 14, 1, norm='layernorm', positions='embeddings.position_embeddings'
    ),
    'dinov2_with_registers': Family(
        DINOv2Backbone,
        transformers.Dinov2WithRegistersModel,
        14,
        5,
        norm='layernorm',
        positions='embeddings.position_embeddings',
    ),
    'dinov3_vit': Family(DINOv3Backbone, transformers.DINOv3ViTModel, 16, 5, norm='norm'),
    'clip': Family(
        CLIPBackbone,
        transformers.CLIPVisionModel,
        16,
        1,
        OPENAI,
        INTERPOLATED,
        positions='embeddings.position_embedding.weight',
    ),
    'siglip': Family(
        SigLIPBackbone,
        transformers.SiglipVisionModel,
        16,
        0,
        HALF,
        INTERPOLATED,
        norm='post_layernorm',
        positions='embeddings.position_embedding.weight',
        cls=False,
    ),
}
ALL = {**FAMILIES, 'dinov3_convnext': Family(DINOv3Backbone, transformers.DINOv3ConvNextModel, 32, 1, cls=False)}
WITH_CLS = [name for name, family in FAMILIES.items() if family.cls]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('twins')
    return {name: save_twin(name, root / name) for name in ALL}


@pytest.fixture
def pictures(normal):
    return lambda height, width: normal(2, 3, height, width).sigmoid()


@torch.no_grad()
def by_hand(name, folder, x, **options):
    """The library's own model on pictures that need no resizing."""
    family = ALL[name]
    eager = {} if name == 'dinov3_convnext' else {'attn_implementation': 'eager'}
    model = family.model.from_pretrained(folder, **eager).eval()
    return model, model(family.colours(x), **(family.extra or {}), **options)


def rows(tokens, height, width):
    """Patch tokens ``(N, h w, D)`` row by row, without reshaping tricks."""
    return torch.stack([tokens[:, y * width : (y + 1) * width].mT for y in range(height)], dim=2)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('grid', [(4, 4), (2, 3), (5, 2)])
def test_features_are_the_librarys(name, grid, folders, pictures):
    family = ALL[name]
    x = pictures(*(n * family.patch for n in grid))
    _, output = by_hand(name, folders[name], x)
    found = family.backbone(folders[name])(x)
    assert found.map.dtype == torch.float32
    assert found.cls_attention is None
    assert output.last_hidden_state.shape[1] == family.prefix + grid[0] * grid[1]
    wanted = rows(output.last_hidden_state[:, family.prefix :], *grid)
    torch.testing.assert_close(found.map, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('name', ALL)
def test_other_sizes_are_resized_and_not_cropped(name, folders, pictures):
    family = ALL[name]
    x = pictures(2 * family.patch + 5, 3 * family.patch - 3)
    size = (2 * family.patch, 3 * family.patch)
    resized = Resize(size, InterpolationMode.BICUBIC, antialias=True)(x).clamp(0, 1)
    _, output = by_hand(name, folders[name], resized)
    wanted = rows(output.last_hidden_state[:, family.prefix :], 2, 3)
    torch.testing.assert_close(family.backbone(folders[name])(x).map, wanted, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize('name', ALL)
def test_content_at_the_right_edge_alone_moves_the_last_column(name, folders):
    family = ALL[name]
    blank = torch.full((1, 3, 3 * family.patch, 4 * family.patch + 4), 0.5)
    edge = blank.clone()
    edge[..., 4 * family.patch :] = torch.tensor([1.0, 0.0, 0.2]).reshape(3, 1, 1)
    backbone = family.backbone(folders[name])
    moved = (backbone(edge).map - backbone(blank).map).norm(dim=1).mean((0, 1))
    assert len(moved) == 4
    assert moved.argmax() == 3
    assert moved[3] > 1e-2


@pytest.mark.parametrize('name', FAMILIES)
def test_pixels_of_a_patch_change_its_position_most(name, folders, pictures):
    family = FAMILIES[name]
    backbone = family.backbone(folders[name])
    x = pictures(3 * family.patch, 5 * family.patch)[:1]
    for row, column in [(0, 0), (1, 3), (2, 1), (2, 4)]:
        other, top, left = x.clone(), row * family.patch, column * family.patch
        other[..., top : top + family.patch, left : left + family.patch] = 0.5
        change = (backbone(other).map - backbone(x).map).norm(dim=1)[0]
        assert change.argmax() == row * 5 + column


@pytest.mark.parametrize('name', [n for n, f in FAMILIES.items() if f.positions])
def test_without_position_embeddings_patches_move_with_the_picture(name, folders, pictures, tmp_path):
    """Attention does not know where a token is: a picture rolled by whole patches gives rolled features."""
    family = FAMILIES[name]
    model = family.model.from_pretrained(folders[name])
    model.get_parameter(family.positions).data.zero_()
    model.save_pretrained(tmp_path)
    backbone = family.backbone(str(tmp_path), cls_attention=family.cls)
    x = pictures(3 * family.patch, 5 * family.patch)
    one, other = backbone(x), backbone(x.roll((family.patch, 2 * family.patch), (-2, -1)))
    torch.testing.assert_close(other.map, one.map.roll((1, 2), (-2, -1)), atol=1e-4, rtol=1e-4)
    if family.cls:
        rolled = one.cls_attention.roll((1, 2), (-2, -1))
        torch.testing.assert_close(other.cls_attention, rolled, atol=1e-6, rtol=1e-4)
    assert (one.map - other.map).abs().max() > 0.1


@torch.no_grad()
def test_interior_of_a_convnext_moves_with_the_picture(folders, pictures):
    backbone = DINOv3Backbone(folders['dinov3_convnext'])
    wide = pictures(448, 512 + 32)[:1]
    left, right = backbone(wide[..., :512]).map, backbone(wide[..., 32:]).map
    # One block of 7 x 7 in each stage sees at most 12 + 24 + 48 + 96 pixels to each side: 6 positions.
    torch.testing.assert_close(right[:, :, 6:-6, 6:-7], left[:, :, 6:-6, 7:-6], atol=1e-4, rtol=1e-4)
    assert (right[:, :, 6:-6, 6:-7] - left[:, :, 6:-6, 6:-7]).abs().max() > 1e-2


@pytest.mark.parametrize('name', WITH_CLS)
@pytest.mark.parametrize('layer', [-1, 0])
def test_cls_attention_is_the_librarys(name, layer, folders, pictures):
    family = FAMILIES[name]
    x = pictures(2 * family.patch, 3 * family.patch)
    _, output = by_hand(name, folders[name], x, output_attentions=True)
    heads = output.attentions[layer][:, :, 0]
    wanted = sum(heads[:, h] for h in range(heads.shape[1])) / heads.shape[1]
    found = family.backbone(folders[name], cls_attention=True, layer=layer)(x).cls_attention
    assert found.shape == (2, 2, 3)
    torch.testing.assert_close(found, rows(wanted[:, None, family.prefix :].mT, 2, 3)[:, 0], atol=1e-6, rtol=1e-4)
    # A row of the softmax, without what the CLS token and the registers get.
    torch.testing.assert_close(found.sum((1, 2)), 1 - wanted[:, : family.prefix].sum(1))
    assert found.std() > 1e-3


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('layer', [0, -2, 1, -1])
def test_layer_is_a_blocks_output_after_the_final_norm(name, layer, folders, pictures):
    family = FAMILIES[name]
    x = pictures(2 * family.patch, 3 * family.patch)
    seen = {}
    model = family.model.from_pretrained(folders[name]).eval()
    block = next(m for n, m in model.named_modules() if n.endswith(('.layer', '.layers')))[layer]
    block.register_forward_hook(lambda module, given, output: seen.update(tokens=output))
    with torch.no_grad():
        model(family.colours(x), **(family.extra or {}))
        tokens = seen['tokens'] if family.norm is None else model.get_submodule(family.norm)(seen['tokens'])
    backbone = family.backbone(folders[name], layer=layer)
    torch.testing.assert_close(backbone(x).map, rows(tokens[:, family.prefix :], 2, 3), atol=1e-4, rtol=1e-4)
    kept = sum(p.numel() for p in backbone.model.parameters())
    assert (kept < sum(p.numel() for p in model.parameters())) == (layer % 2 == 0)


@pytest.mark.parametrize('name', ALL)
def test_size_options(name, folders, pictures):
    family = ALL[name]
    x = pictures(4 * family.patch, 6 * family.patch)
    assert family.backbone(folders[name], max_tokens=10)(x).map.shape[-2:] == (2, 4)
    assert family.backbone(folders[name], input_size=2 * family.patch)(x).map.shape[-2:] == (2, 3)
    with pytest.raises(ValueError, match='both say how large'):
        family.backbone(folders[name], max_tokens=10, input_size=32)


@pytest.mark.parametrize('name', ALL)
def test_half_precision_is_near_and_frozen(name, folders, pictures):
    family = ALL[name]
    x = pictures(2 * family.patch, 3 * family.patch)
    backbone = family.backbone(folders[name], dtype='bfloat16', cls_attention=family.cls)
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.model.parameters())
    found = backbone(x.requires_grad_())
    assert found.map.dtype == torch.float32
    assert not found.map.requires_grad
    exact = family.backbone(folders[name])(x).map
    assert (found.map - exact).norm() < 0.1 * exact.norm()
    if family.cls:
        assert found.cls_attention.dtype == torch.float32


@pytest.mark.parametrize('kind', ['whole', 'projection', 'old names'])
@pytest.mark.parametrize('name', ['clip', 'siglip'])
def test_vision_tower_of_every_layout(name, kind, folders, pictures, tmp_path):
    """A whole model, one with a projection, and the names that checkpoints had before transformers 5."""
    family = FAMILIES[name]
    tower = family.model.from_pretrained(folders[name])
    if kind == 'whole':
        whole = {'clip': transformers.CLIPModel, 'siglip': transformers.SiglipModel}[name]
        texts = {'vocab_size': 30, 'hidden_size': 8, 'intermediate_size': 8, 'num_attention_heads': 2}
        ids = {'bos_token_id': 1, 'eos_token_id': 2, 'pad_token_id': 0}
        config = whole.config_class(
            vision_config=tower.config.to_dict(), text_config={**texts, **ids, 'num_hidden_layers': 1}
        )
        model = randomise(whole(config), seed=1)
        model.vision_model.load_state_dict(tower.state_dict())
        model.save_pretrained(tmp_path)
    elif kind == 'projection' and name == 'clip':
        model = randomise(transformers.CLIPVisionModelWithProjection(tower.config), seed=1)
        model.vision_model.load_state_dict(tower.state_dict())
        model.save_pretrained(tmp_path)
    else:
        tower.save_pretrained(tmp_path)
        save_file({f'vision_model.{k}': v for k, v in tower.state_dict().items()}, tmp_path / 'model.safetensors')
    x = pictures(32, 48)
    found = family.backbone(str(tmp_path))(x)
    assert torch.equal(found.map, family.backbone(folders[name])(x).map)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('fault', ['missing', 'has shape'])
def test_checkpoint_that_does_not_fit_is_refused(name, fault, folders, tmp_path):
    family = ALL[name]
    family.model.from_pretrained(folders[name]).save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    key = next(k for k in sorted(state) if k.endswith(('fc1.weight', 'up_proj.weight', 'pointwise_conv1.weight')))
    value = state.pop(key)
    if fault == 'has shape':
        state[key] = value[:, 1:].clone()
    save_file(state, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match=rf'does not fit the \w+ of its config: .*{fault}'):
        family.backbone(str(tmp_path))


@pytest.mark.parametrize(
    ('name', 'part'), [('dinov2', 'mask_token'), ('dinov3_vit', 'mask_token'), ('siglip', 'head.')]
)
def test_what_nothing_depends_on_may_be_missing(name, part, folders, pictures, tmp_path):
    family = FAMILIES[name]
    family.model.from_pretrained(folders[name]).save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    kept = {k: v for k, v in state.items() if part not in k}
    assert len(kept) < len(state)
    save_file(kept, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    x = pictures(2 * family.patch, 3 * family.patch)
    assert torch.equal(family.backbone(str(tmp_path))(x).map, family.backbone(folders[name])(x).map)


def test_rehearsal_has_the_kind_of_the_checkpoint(tmp_path):
    for model, kind in [('vitb16', 'dinov3_vit'), ('convnext-tiny', 'dinov3_convnext')]:
        options = {'pretrained': f'facebook/dinov3-{model}-pretrain-lvd1689m', 'layer': 20, 'input_size': 512}
        changed = DINOv3Backbone.rehearsal(options, tmp_path)
        assert changed == {'pretrained': str(tmp_path / kind), 'device': 'cpu', 'layer': -1, 'input_size': 64}
        assert DINOv3Backbone(**changed).kind == kind


@pytest.mark.parametrize(
    ('backbone', 'name', 'options', 'words'),
    [
        (DINOv3Backbone, 'dinov2', {}, "DINOv3Backbone needs a DINOv3 checkpoint, .* is of type 'dinov2'"),
        (CLIPBackbone, 'siglip', {}, "CLIPBackbone needs a CLIP checkpoint, .* of type 'siglip_vision_model'"),
        (SigLIPBackbone, 'siglip', {'cls_attention': True}, 'SigLIP has no CLS token'),
        (DINOv3Backbone, 'dinov3_convnext', {'cls_attention': True}, 'a DINOv3 ConvNeXt has no CLS token'),
        (DINOv3Backbone, 'dinov3_convnext', {'layer': -2}, "of a DINOv3 ConvNeXt the last stage .*'TimmBackbone'"),
        (CLIPBackbone, 'clip', {'layer': 2}, 'the model has 2 blocks, so 0 to 1 or -2 to -1'),
        (CLIPBackbone, 'clip', {'dtype': 'float3'}, "dtype 'float3'"),
    ],
)
def test_what_cannot_be_is_said(backbone, name, options, words, folders):
    with pytest.raises(ValueError, match=words):
        backbone(folders[name], **options)


def test_number_of_registers_is_read_from_the_config(tmp_path, pictures):
    """The class's default is none, the published models have four."""
    folder = save_twin('dinov3_vit', tmp_path, num_register_tokens=2)
    _, output = by_hand('dinov3_vit', folder, x := pictures(32, 48))
    wanted = rows(output.last_hidden_state[:, 3:], 2, 3)
    torch.testing.assert_close(DINOv3Backbone(folder)(x).map, wanted, atol=1e-4, rtol=1e-4)


def test_attention_of_the_first_token_by_hand():
    """Two heads of one number; the scores of head 1 are 0, ln 2 and ln 5, those of head 2 are equal."""
    query = torch.tensor([[[1.0, 0.0], [9.0, 9.0], [9.0, 9.0]]])
    key = torch.tensor([[[0.0, 7.0], [2.0, 7.0], [5.0, 7.0]]])
    key[..., 0] = torch.tensor([1.0, 2.0, 5.0]).log()
    found = first_token_attention(query, key, heads=2, prefix=1)
    torch.testing.assert_close(found, torch.tensor([[(2 / 8 + 1 / 3) / 2, (5 / 8 + 1 / 3) / 2]]))
    # Keys that are rotated to zero attract equally.
    found = first_token_attention(query, key, heads=2, prefix=1, rotate=torch.zeros_like)
    torch.testing.assert_close(found, torch.full((1, 2), 1 / 3))


def test_patches_are_square():
    assert square(14) == square([14, 14]) == 14
    with pytest.raises(ValueError, match='not square'):
        square((14, 16))
