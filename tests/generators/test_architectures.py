"""The full-size transformers have the published numbers of parameters."""

import pytest

from vipo.generators.architectures import TRANSFORMERS, meta_transformer

#: Billions, as the models' pages and papers give them.
PUBLISHED = {
    'stabilityai/stable-diffusion-3-medium-diffusers': 2.0,
    'stabilityai/stable-diffusion-3.5-medium': 2.5,
    'stabilityai/stable-diffusion-3.5-large': 8.1,
    'black-forest-labs/FLUX.1-dev': 12,
    'black-forest-labs/FLUX.1-schnell': 12,
    'Wan-AI/Wan2.1-T2V-1.3B-Diffusers': 1.3,
    'Wan-AI/Wan2.1-T2V-14B-Diffusers': 14,
    'Wan-AI/Wan2.2-T2V-A14B-Diffusers': 14,
    'Wan-AI/Wan2.2-TI2V-5B-Diffusers': 5,
    'hunyuanvideo-community/HunyuanVideo': 13,
}


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_number_of_parameters(name):
    model = meta_transformer(name)
    assert {p.device.type for p in model.parameters()} == {'meta'}
    # Stable Diffusion's count includes its table of positions, a buffer.
    billions = sum(t.numel() for t in (*model.parameters(), *model.buffers())) / 1e9
    assert billions == pytest.approx(PUBLISHED[name], rel=0.1)


def test_unknown_model():
    assert meta_transformer('somebody/else') is None
