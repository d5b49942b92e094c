import pytest
import torch
from torchvision.transforms import InterpolationMode, Normalize, Resize
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from vipo.assets import resolve
from vipo.structurers.backbones import DINOv2Backbone

TINY = 'vipo://tiny-dinov2'
PATCH = 4
SIZES = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'image_size': 28, 'patch_size': 7}
imagenet = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope='module')
def plain():
    return Dinov2Model.from_pretrained(resolve(TINY), dtype=torch.float32, attn_implementation='eager').eval()


@pytest.fixture(scope='module')
def backbone():
    return DINOv2Backbone(TINY)


@pytest.fixture
def pictures(normal):
    return lambda height, width: normal(2, 3, height, width).sigmoid()


def dense(tokens, height, width):
    """Patch tokens in rows, without reshaping tricks."""
    return torch.stack([tokens[:, y * width : (y + 1) * width].mT for y in range(height)], dim=2)


@pytest.mark.parametrize(('height', 'width'), [(64, 64), (32, 48), (72, 40)])
@torch.no_grad()
def test_features_are_those_of_transformers(backbone, plain, pictures, height, width):
    x = pictures(height, width)
    tokens = plain(imagenet(x)).last_hidden_state
    out = backbone(x)
    assert out.map.shape == (2, plain.config.hidden_size, height // PATCH, width // PATCH)
    assert out.cls_attention is None
    torch.testing.assert_close(out.map, dense(tokens[:, 1:], height // PATCH, width // PATCH), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(('size', 'rounded'), [((66, 49), (64, 48)), ((63, 67), (64, 68)), ((3, 9), (4, 8))])
@torch.no_grad()
def test_picture_that_is_no_multiple_of_the_patch_is_resized(backbone, plain, pictures, size, rounded):
    x = pictures(*size)
    resized = Resize(rounded, InterpolationMode.BICUBIC, antialias=True)(x).clamp(0, 1)
    grid = rounded[0] // PATCH, rounded[1] // PATCH
    wanted = dense(plain(imagenet(resized)).last_hidden_state[:, 1:], *grid)
    torch.testing.assert_close(backbone(x).map, wanted, atol=1e-3, rtol=1e-3)


def test_no_edge_is_cropped_away(backbone, pictures):
    x = pictures(66, 66)
    other = x.clone()
    other[..., 64:, :] = 1 - other[..., 64:, :]
    assert (backbone(x).map - backbone(other).map)[:, :, -1].abs().max() > 1e-3


@pytest.mark.parametrize(('size', 'grid'), [((32, 64), (4, 8)), ((100, 50), (8, 4)), ((16, 16), (4, 4))])
def test_input_size_sets_the_shorter_side(pictures, size, grid):
    assert DINOv2Backbone(TINY, input_size=16)(pictures(*size)).map.shape[-2:] == grid


@torch.no_grad()
def test_cls_attention_is_the_last_layers_mean_over_heads(plain, backbone, pictures):
    x = pictures(32, 48)
    out = DINOv2Backbone(TINY, cls_attention=True)(x)
    heads = plain(imagenet(x), output_attentions=True).attentions[-1]
    wanted = sum(heads[:, h, 0, 1:] for h in range(heads.shape[1])) / heads.shape[1]
    assert out.cls_attention.shape == (2, 8, 12)
    torch.testing.assert_close(out.cls_attention.flatten(1), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.map, backbone(x).map, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('attention', [False, True])
@torch.no_grad()
def test_registers_are_dropped_with_the_cls_token(tmp_path, pictures, attention):
    torch.manual_seed(0)
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)).eval()
    torch.nn.init.normal_(model.embeddings.register_tokens)
    model.save_pretrained(tmp_path)
    x = pictures(14, 21)
    out = DINOv2Backbone(str(tmp_path), cls_attention=attention)(x)
    tokens = model(imagenet(x)).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 6
    torch.testing.assert_close(out.map, dense(tokens[:, 5:], 2, 3), atol=1e-3, rtol=1e-3)
    if attention:
        assert out.cls_attention.shape == (2, 2, 3)
        assert (out.cls_attention.sum((1, 2)) < 0.95).all()


def test_weights_are_frozen_and_of_the_dtype_asked_for(tmp_path, pictures):
    Dinov2Model(Dinov2Config(**SIZES, hidden_dropout_prob=0.5)).save_pretrained(tmp_path)
    backbone = DINOv2Backbone(str(tmp_path), dtype='bfloat16')
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in backbone.model.parameters())
    x = pictures(14, 14)
    one, other = backbone(x.requires_grad_()), backbone(x)
    assert one.map.dtype == torch.float32
    assert torch.equal(one.map, other.map)
    assert not one.map.requires_grad


def test_other_kinds_of_model_are_refused(tmp_path):
    CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of type 'clip_vision_model'"):
        DINOv2Backbone(str(tmp_path))
