"""The full-size transformers have the published numbers of parameters."""

import pytest

from vipo.generators import WanGenerator
from vipo.generators.architectures import ARCHITECTURES
from vipo.generators.twins import save_twin
from vipo.registry import GENERATORS

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


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_number_of_parameters(name):
    model = ARCHITECTURES[name].skeleton('transformer')
    assert {p.device.type for p in model.parameters()} == {'meta'}
    # Stable Diffusion's count includes its table of positions, a buffer.
    billions = sum(t.numel() for t in (*model.parameters(), *model.buffers())) / 1e9
    assert billions == pytest.approx(PUBLISHED[name], rel=0.1)


@pytest.mark.parametrize(
    ('kind', 'name', 'options', 'latents'),
    [
        ('SD3Generator', 'stabilityai/stable-diffusion-3.5-large', {'resolution': 1024}, (16, 1, 128, 128)),
        ('FluxGenerator', 'black-forest-labs/FLUX.1-dev', {'resolution': 512}, (16, 1, 64, 64)),
        ('WanGenerator', 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers', {'num_frames': 53}, (16, 14, 30, 52)),
        ('WanGenerator', 'Wan-AI/Wan2.2-T2V-A14B-Diffusers', {'num_frames': 81}, (16, 21, 30, 52)),
        (
            'WanGenerator',
            'Wan-AI/Wan2.2-TI2V-5B-Diffusers',
            {'num_frames': 121, 'resolution': (704, 1280)},
            (48, 31, 44, 80),
        ),
        ('HunyuanVideoGenerator', 'hunyuanvideo-community/HunyuanVideo', {'num_frames': 53}, (16, 14, 60, 60)),
    ],
)
def test_generator_of_full_size_without_weights(kind, name, options, latents):
    """Latent sizes by hand from the factors of the autoencoders: 8 (16 for the 5B) in space, 4 in time."""
    generator = GENERATORS.build({'type': kind, 'pretrained': name, 'init': 'meta', **options}, at='generator')
    assert generator.latent_shape() == latents
    assert {p.device.type for p in generator.denoiser.parameters()} == {'meta'}
    assert generator.shift > 0
    if name.endswith('A14B-Diffusers'):
        assert [generator.network_at(s) for s in (1.0, 0.9, 0.8)] == ['transformer', 'transformer', 'transformer_2']


def test_twin_of_a_wan_model_is_read_from_its_files_and_not_from_its_path(tmp_path):
    """Paths of snapshots hold hashes, in which anything can stand."""
    for name in ('wan21', 'wan22', 'wan22_5b'):
        folder = save_twin(name, tmp_path / 'v2.2' / f'0fad780a534b6463e45facd96134c9f345acfa5b-{name}')
        assert WanGenerator.twin_of(folder) == name
    published = {
        'Wan-AI/Wan2.1-T2V-1.3B-Diffusers': 'wan21',
        'Wan-AI/Wan2.2-T2V-A14B-Diffusers': 'wan22',
        'Wan-AI/Wan2.2-TI2V-5B-Diffusers': 'wan22_5b',
        'somebody/my-Wan2.2-tuned': 'wan22',
    }
    assert {model: WanGenerator.twin_of(model) for model in published} == published
