"""Every family against diffusers' own pipeline: same latents, sigmas, embeddings and guidance give the same result."""

import pytest
import torch

from tests.generators.families import FAMILIES, PROMPTS, TEMPLATE, sample, start
from vipo.generators import FluxGenerator


@pytest.mark.parametrize('guided', [False, True], ids=['plain', 'guided'])
@pytest.mark.parametrize('name', FAMILIES)
def test_ode_equals_the_pipeline(name, guided, twin_folder):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), **(family.guided if guided else family.unguided))
    noise = start(generator)
    theirs = family.run(generator, noise, 'latent')
    ours = sample(generator, noise, generator.pipe.scheduler.sigmas)
    assert ours.shape == noise.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    pixels = family.run(generator, noise, 'pt')
    torch.testing.assert_close(generator.decode(ours), pixels.clamp(0, 1), atol=1e-5, rtol=0)
    assert pixels.std() > 0.01, 'a flat picture would agree with anything'


@pytest.mark.parametrize('name', FAMILIES)
def test_guidance_and_the_second_transformer_matter(name, twin_folder):
    """Else the test above would not see them."""
    family = FAMILIES[name]
    plain = family.build(twin_folder(family.twin), **family.unguided)
    guided = family.build(twin_folder(family.twin), **family.guided)
    noise, sigmas = start(plain), plain.sigmas(4)
    assert (sample(plain, noise, sigmas) - sample(guided, noise, sigmas)).abs().max() > 1e-4
    if name == 'wan22':
        assert [plain.network_at(s) for s in sigmas[:-1].tolist()] == ['transformer'] * 2 + ['transformer_2'] * 2
    same = family.build(twin_folder(family.twin), **family.guided, negative_prompt='fog')
    assert (sample(same, noise, sigmas) - sample(guided, noise, sigmas)).abs().max() > 1e-6


@pytest.mark.parametrize(
    ('name', 'grid'),
    [
        # Tables of the published schedules, S = 10: static shift 3, 3 and 7.
        ('sd3', [1, 0.9643, 0.9231, 0.875, 0.8182, 0.75, 0.6667, 0.5625, 0.4286, 0.25, 0]),
        ('wan21', [1, 0.9643, 0.9231, 0.875, 0.8182, 0.75, 0.6667, 0.5625, 0.4286, 0.25, 0]),
        ('hunyuan_video', [1, 0.9844, 0.9655, 0.9423, 0.913, 0.875, 0.8235, 0.75, 0.6364, 0.4375, 0]),
    ],
)
def test_default_sigma_grid(name, grid, twin_folder):
    family = FAMILIES[name]
    assert torch.allclose(family.build(twin_folder(family.twin)).sigmas(10), torch.tensor(grid), atol=5e-5)


@pytest.mark.parametrize(('side', 'shift'), [(512, 1.878), (1024, 3.158)])
def test_flux_shift_grows_with_the_picture(twin_folder, side, shift):
    """e^mu for 1024 and 4096 tokens, as the scheduler's own constants give it."""
    assert FluxGenerator(twin_folder('flux'), resolution=side).shift == pytest.approx(shift, abs=1e-3)
    assert FluxGenerator(twin_folder('flux'), resolution=side, shift=3.0).shift == 3.0


def test_padding_of_a_text_is_masked_for_hunyuan_video(twin_folder):
    family = FAMILIES['hunyuan_video']
    generator = family.build(twin_folder('hunyuan_video'))
    mask = generator.encode(PROMPTS).tensors['mask']
    assert mask.shape == (2, 16)
    assert 0 < mask[0].sum() < 16
    longer = family.adapter(twin_folder('hunyuan_video'), max_sequence_length=32, **family.options)
    noise, sigmas = start(generator), generator.sigmas(2)
    torch.testing.assert_close(sample(generator, noise, sigmas), sample(longer, noise, sigmas), atol=1e-5, rtol=0)
    assert generator.prompt_template == TEMPLATE


@pytest.mark.parametrize('name', FAMILIES)
def test_shapes_of_encoded_texts_are_known_without_encoding(name, twin_folder):
    generator = FAMILIES[name].build(twin_folder(FAMILIES[name].twin))
    encoded = generator.encode_texts(PROMPTS)
    assert {k: tuple(v.shape[1:]) for k, v in encoded.items()} == generator.text_shapes()
    assert {k: v.is_floating_point() for k, v in encoded.items()} == {k: k != 'mask' for k in encoded}
