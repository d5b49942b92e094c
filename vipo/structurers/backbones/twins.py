"""Tiny random vision models of every family: production classes in the layout of real checkpoints.

A twin keeps what shapes depend on (patch sizes, strides, the number of stages, registers) and shrinks what they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

_SIZES = {'hidden_size': 24, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'image_size': 64}

#: model_type -> (config class, model class, options).
_TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    'dinov2': ('Dinov2Config', 'Dinov2Model', {**_SIZES, 'patch_size': 14, 'image_size': 56, 'mlp_ratio': 2}),
    'dinov2_with_registers': (
        'Dinov2WithRegistersConfig',
        'Dinov2WithRegistersModel',
        {**_SIZES, 'patch_size': 14, 'image_size': 56, 'mlp_ratio': 2, 'num_register_tokens': 4},
    ),
    'dinov3_vit': (
        'DINOv3ViTConfig',
        'DINOv3ViTModel',
        {**_SIZES, 'patch_size': 16, 'intermediate_size': 48, 'num_register_tokens': 4},
    ),
    'dinov3_convnext': (
        'DINOv3ConvNextConfig',
        'DINOv3ConvNextModel',
        {'hidden_sizes': [8, 8, 16, 16], 'depths': [1, 1, 1, 1], 'layer_scale_init_value': 1.0},
    ),
    'clip': ('CLIPVisionConfig', 'CLIPVisionModel', {**_SIZES, 'patch_size': 16, 'intermediate_size': 48}),
    'siglip': ('SiglipVisionConfig', 'SiglipVisionModel', {**_SIZES, 'patch_size': 16, 'intermediate_size': 48}),
    'vjepa2': (
        'VJEPA2Config',
        'VJEPA2Model',
        {
            'hidden_size': 24,
            'num_hidden_layers': 2,
            'num_attention_heads': 2,
            'patch_size': 16,
            'crop_size': 64,
            'frames_per_clip': 8,
            'mlp_ratio': 2,
            'pred_hidden_size': 24,
            'pred_num_attention_heads': 2,
            'pred_num_hidden_layers': 1,
        },
    ),
}

#: Class of timm -> arguments that shrink it.
_TIMM: dict[str, dict[str, Any]] = {
    'ResNet': {'layers': (1, 1, 1, 1), 'channels': (8, 8, 16, 16), 'cardinality': 1, 'base_width': 64},
    'ConvNeXt': {'depths': (1, 1, 1, 1), 'dims': (8, 8, 16, 16)},
    'VisionTransformerSAM': {'embed_dim': 16, 'num_heads': 2, 'neck_chans': 16},
    'HieraDet': {'embed_dim': 8, 'num_heads': 1, 'stages': (1, 1, 2, 1), 'global_att_blocks': (3,)},
    'VisionTransformer': {'embed_dim': 24, 'num_heads': 2},
    'Eva': {'embed_dim': 24, 'num_heads': 2},
}


def small(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of any backbone that change in a rehearsal, where pictures and models are small."""
    changed: dict[str, Any] = {'device': 'cpu'}
    if options.get('input_size') is not None:
        changed['input_size'] = 64
    if 'layer' in options:
        changed['layer'] = -1
    return changed


def save_twin(kind: str, folder: Path, **options: Any) -> str:
    """Write a twin of a vision model of transformers.

    Args:
        kind: its ``model_type``.
        options: of its config, in place of the twin's.

    Returns:
        The folder.
    """
    import transformers

    config, model, sizes = _TRANSFORMERS[kind]
    twin = getattr(transformers, model)(getattr(transformers, config)(**{**sizes, **options}))
    randomise(twin).save_pretrained(folder)
    return str(folder)


def save_timm_twin(name: str, family: str, args: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a twin of a model of timm.

    Args:
        name: of the model.
        family: name of its class.
        args: what the real one is made with.

    Returns:
        Options of :class:`~vipo.structurers.backbones.timm_models.TimmBackbone` that load it. For a class whose sizes
        are not known here, that is the model at its full size with random weights.
    """
    import timm

    if family not in _TIMM:
        return {'pretrained': False}
    shrunk = {**args, **_TIMM[family]}
    twin = randomise(timm.create_model(name, **shrunk))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(twin.state_dict(), folder / 'model.safetensors')
    return {'checkpoint': str(folder / 'model.safetensors'), 'model_args': shrunk}


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a model with weights wider than a library's first ones, so that features depend on what is seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if parameter.ndim == 1 and name.endswith('weight') else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
