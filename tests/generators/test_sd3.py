"""The SD3 adapter against diffusers' own pipeline, and what it writes against what diffusers loads."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from vipo.assets import resolve
from vipo.diffusion.rollout import integrate
from vipo.generators import SD3Generator
from vipo.generators.training import add_lora

PROMPTS = [
    'a small red circle at the left on a plain gray background',
    'a large blue ring above a small cyan cross on a dotted navy background',
]
STEPS = 4


def build(**options):
    return SD3Generator('vipo://tiny-sd3', resolution=64, max_sequence_length=16, **options)


def start(generator, seed=0):
    return torch.randn(2, *generator.latent_shape(), generator=torch.Generator().manual_seed(seed))


def sample(generator, noise):
    conditioning = generator.encode(PROMPTS)
    with torch.no_grad():
        return integrate(lambda x, sigma: generator.velocity(x, sigma, conditioning), noise, generator.sigmas(STEPS))


def pipeline_sample(pipe, noise, guidance, output='latent', size=(64, 64)):
    return pipe(
        PROMPTS,
        height=size[0],
        width=size[1],
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        sigmas=torch.linspace(1, 1 / STEPS, STEPS).tolist(),
        latents=noise.squeeze(2).clone(),
        max_sequence_length=16,
        output_type=output,
    ).images


@pytest.mark.parametrize('guidance', [1.0, 4.5])
def test_ode_equals_the_pipeline(guidance):
    generator = build(guidance_scale=guidance)
    noise = start(generator)
    latents = sample(generator, noise)
    theirs = pipeline_sample(generator.pipe, noise, guidance)
    # of the largest latent, which with guidance is 15
    torch.testing.assert_close(latents.squeeze(2), theirs, atol=2e-6 * theirs.abs().max().item(), rtol=0)
    pixels = pipeline_sample(generator.pipe, noise, guidance, 'pt')
    assert torch.allclose(generator.decode(latents).squeeze(2), pixels.clamp(0, 1), atol=1e-5)


def test_ode_equals_the_pipeline_on_a_picture_that_is_not_square():
    generator = SD3Generator('vipo://tiny-sd3', resolution=(32, 64), max_sequence_length=16)
    noise = start(generator)
    expected = pipeline_sample(generator.pipe, noise, 1.0, size=(32, 64))
    assert noise.shape[-2:] == (8, 16)
    assert torch.allclose(sample(generator, noise).squeeze(2), expected, atol=1e-5)


def test_shift_of_the_sigma_grid_follows_the_scheduler_or_the_option():
    assert build().shift == build().pipe.scheduler.config.shift
    grid = build(shift=3.0).sigmas(10)
    textbook = [1, 0.9643, 0.9231, 0.875, 0.8182, 0.75, 0.6667, 0.5625, 0.4286, 0.25, 0]
    assert torch.allclose(grid, torch.tensor(textbook), atol=5e-5)


def test_exported_lora_gives_the_same_picture_in_plain_diffusers(tmp_path):
    generator = build(lora={'rank': 4, 'alpha': 8})
    torch.manual_seed(0)
    for parameter in generator.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    noise = start(generator)
    ours = sample(generator, noise)
    generator.save_pretrained(tmp_path)
    pipe = StableDiffusion3Pipeline.from_pretrained(resolve('vipo://tiny-sd3'), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    plain = pipeline_sample(pipe, noise, 1.0)
    pipe.load_lora_weights(tmp_path)
    assert torch.allclose(ours.squeeze(2), pipeline_sample(pipe, noise, 1.0), atol=1e-5)
    assert not torch.allclose(ours.squeeze(2), plain, atol=1e-3)


def test_exported_transformer_gives_the_same_picture_in_plain_diffusers(tmp_path):
    from diffusers import SD3Transformer2DModel

    generator = build()
    torch.manual_seed(0)
    for parameter in generator.trainable_parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    noise = start(generator)
    ours = sample(generator, noise)
    generator.save_pretrained(tmp_path)
    pipe = StableDiffusion3Pipeline.from_pretrained(
        resolve('vipo://tiny-sd3'),
        transformer=SD3Transformer2DModel.from_pretrained(tmp_path / 'transformer'),
        dtype=torch.float32,
    )
    pipe.set_progress_bar_config(disable=True)
    assert torch.allclose(ours.squeeze(2), pipeline_sample(pipe, noise, 1.0), atol=1e-5)


def test_lora_depends_on_its_seed_alone_and_not_on_the_global_state():
    torch.manual_seed(1)
    first = build(lora={'rank': 2})
    torch.manual_seed(2)
    second = build(lora={'rank': 2})
    for a, b in zip(first.trainable_parameters(), second.trainable_parameters(), strict=True):
        assert torch.equal(a, b)
    other = build(lora={'rank': 2, 'seed': 5})
    pairs = zip(first.trainable_parameters(), other.trainable_parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_lora_matches_the_known_number_of_layers():
    generator = build()
    names = add_lora(generator.denoiser, rank=2, targets=['attn.to_q', 'attn.add_q_proj', 'attn.to_add_out'])
    # four joint blocks; the last one has no output projection for the text
    assert len(names) == 4 + 4 + 3


def test_conditioning_is_indexable_and_repeats_prompts():
    conditioning = build(guidance_scale=2.0).encode(PROMPTS)
    assert set(conditioning.tensors) == {'embeds', 'pooled', 'negative_embeds', 'negative_pooled'}
    repeated = conditioning.take(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert len(repeated) == 6
    assert len(repeated) == 3 * len(conditioning)
    assert torch.equal(repeated[:].tensors['embeds'][2], conditioning.tensors['embeds'][0])
    assert torch.equal(repeated[3:4].tensors['pooled'][0], conditioning.tensors['pooled'][1])


def test_gradient_checkpointing_gives_the_same_gradients():
    results = []
    for checkpointing in (False, True):
        generator = build(gradient_checkpointing=checkpointing)
        conditioning = generator.encode(PROMPTS)
        generator.velocity(start(generator), 0.5, conditioning).square().mean().backward()
        results.append([p.grad.clone() for p in generator.trainable_parameters() if p.grad is not None])
    assert len(results[0]) == len(results[1]) > 50
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


def test_moving_the_generator_moves_its_frozen_copy():
    generator = SD3Generator('vipo://tiny-sd3', resolution=64, max_sequence_length=16, keep_reference=True).to('meta')
    with generator.reference():
        assert {p.device.type for p in generator._networks['transformer'].parameters()} == {'meta'}
