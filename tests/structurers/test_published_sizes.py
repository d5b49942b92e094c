"""What a plan says of a published backbone is what its architecture holds, counted without memory."""

import pytest
import torch
import transformers

from vipo.structurers.backbones import CLIPBackbone, DINOv2Backbone, DINOv3Backbone, SigLIPBackbone, VJEPA2Backbone


def vit(width, depth, heads, **more):
    return {'hidden_size': width, 'num_hidden_layers': depth, 'num_attention_heads': heads, **more}


def clip(width, depth, heads, patch, size=224, inner=None):
    more = {'patch_size': patch, 'image_size': size, 'intermediate_size': inner or 4 * width}
    return transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**vit(width, depth, heads, **more))


def siglip(width, depth, heads, inner, patch, size):
    more = {'patch_size': patch, 'image_size': size, 'intermediate_size': inner}
    return transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**vit(width, depth, heads, **more))


def dinov2(width, depth, heads, **more):
    config = transformers.Dinov2Config(**vit(width, depth, heads, patch_size=14, image_size=518, **more))
    return transformers.Dinov2Model, config


def dinov3(width, depth, heads, inner, gated=False, **more):
    options = {'intermediate_size': inner, 'use_gated_mlp': gated, 'num_register_tokens': 4, **more}
    return transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig(**vit(width, depth, heads, **options))


def convnext(widths, depths):
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=widths, depths=depths)
    return transformers.DINOv3ConvNextModel, config


def vjepa2(width, depth, heads, ratio=4.0):
    return transformers.VJEPA2Model, transformers.VJEPA2Config(**vit(width, depth, heads, mlp_ratio=ratio))


#: Widths, depths and heads of the papers and model pages.
PUBLISHED = [
    (DINOv2Backbone, 'facebook/dinov2-small', dinov2(384, 12, 6)),
    (DINOv2Backbone, 'facebook/dinov2-with-registers-base', dinov2(768, 12, 12)),
    (DINOv2Backbone, 'facebook/dinov2-large', dinov2(1024, 24, 16)),
    (DINOv2Backbone, 'facebook/dinov2-giant', dinov2(1536, 40, 24, use_swiglu_ffn=True)),
    (DINOv3Backbone, 'facebook/dinov3-vits16-pretrain-lvd1689m', dinov3(384, 12, 6, 1536)),
    (DINOv3Backbone, 'facebook/dinov3-vits16plus-pretrain-lvd1689m', dinov3(384, 12, 6, 1536, gated=True)),
    (DINOv3Backbone, 'facebook/dinov3-vitb16-pretrain-lvd1689m', dinov3(768, 12, 12, 3072)),
    (DINOv3Backbone, 'facebook/dinov3-vitl16-pretrain-sat493m', dinov3(1024, 24, 16, 4096)),
    (DINOv3Backbone, 'facebook/dinov3-vith16plus-pretrain-lvd1689m', dinov3(1280, 32, 20, 5120, gated=True)),
    (DINOv3Backbone, 'facebook/dinov3-vit7b16-pretrain-lvd1689m', dinov3(4096, 40, 32, 8192, gated=True)),
    (
        DINOv3Backbone,
        'facebook/dinov3-convnext-tiny-pretrain-lvd1689m',
        convnext([96, 192, 384, 768], [3, 3, 9, 3]),
    ),
    (
        DINOv3Backbone,
        'facebook/dinov3-convnext-small-pretrain-lvd1689m',
        convnext([96, 192, 384, 768], [3, 3, 27, 3]),
    ),
    (
        DINOv3Backbone,
        'facebook/dinov3-convnext-base-pretrain-lvd1689m',
        convnext([128, 256, 512, 1024], [3, 3, 27, 3]),
    ),
    (
        DINOv3Backbone,
        'facebook/dinov3-convnext-large-pretrain-lvd1689m',
        convnext([192, 384, 768, 1536], [3, 3, 27, 3]),
    ),
    (CLIPBackbone, 'openai/clip-vit-base-patch32', clip(768, 12, 12, 32)),
    (CLIPBackbone, 'openai/clip-vit-base-patch16', clip(768, 12, 12, 16)),
    (CLIPBackbone, 'openai/clip-vit-large-patch14', clip(1024, 24, 16, 14)),
    (CLIPBackbone, 'openai/clip-vit-large-patch14-336', clip(1024, 24, 16, 14, 336)),
    (CLIPBackbone, 'laion/CLIP-ViT-H-14-laion2B-s32B-b79K', clip(1280, 32, 16, 14)),
    (CLIPBackbone, 'laion/CLIP-ViT-bigG-14-laion2B-39B-b160k', clip(1664, 48, 16, 14, inner=8192)),
    (SigLIPBackbone, 'google/siglip2-base-patch16-256', siglip(768, 12, 12, 3072, 16, 256)),
    (SigLIPBackbone, 'google/siglip-large-patch16-384', siglip(1024, 24, 16, 4096, 16, 384)),
    (SigLIPBackbone, 'google/siglip-so400m-patch14-384', siglip(1152, 27, 16, 4304, 14, 384)),
    (VJEPA2Backbone, 'facebook/vjepa2-vitl-fpc64-256', vjepa2(1024, 24, 16)),
    (VJEPA2Backbone, 'facebook/vjepa2-vith-fpc64-256', vjepa2(1280, 32, 16)),
    (VJEPA2Backbone, 'facebook/vjepa2-vitg-fpc64-384', vjepa2(1408, 40, 22, 48 / 11)),
]


@pytest.mark.parametrize(('backbone', 'name', 'architecture'), PUBLISHED, ids=[p[1] for p in PUBLISHED])
def test_bytes(backbone, name, architecture):
    kind, config = architecture
    with torch.device('meta'):
        model = kind(config)
    model = model.encoder if backbone is VJEPA2Backbone else model
    counted = sum(p.numel() for p in model.parameters())
    assert backbone.model_bytes({'pretrained': name, 'dtype': 'float32'}) == pytest.approx(4 * counted, rel=0.015)
    assert backbone.model_bytes({'pretrained': '/a/folder/of/mine'}) is None
