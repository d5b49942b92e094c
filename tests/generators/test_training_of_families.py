"""What is trained in every family, and what plain diffusers makes of it afterwards."""

import pytest
import torch

from tests.generators.families import FAMILIES, sample, start
from vipo.diffusion import FlowKernel
from vipo.engine.measure import PeakMemory
from vipo.engine.policy import Policy
from vipo.losses import PolicyLoss
from vipo.registry import GENERATORS, ConfigError

#: Linear layers that the default targets match on the twin, counted by hand from the architecture.
MATCHES = {
    # Two joint blocks of 4 + 4 projections, the last without the text's output. The targets leave dual attention out.
    'sd3': {'transformer': 15},
    # Joint: 8 of the attention and 4 of the two feed-forwards; single: query, key, value.
    'flux': {'transformer': 15},
    # Two blocks with 4 + 4 projections and 2 of the feed-forward.
    'wan21': {'transformer': 20},
    'wan22': {'transformer': 20, 'transformer_2': 20},
    'wan22_5b': {'transformer': 20},
    # Joint: 8; single: query, key, value. The refiner's 4 are left out.
    'hunyuan_video': {'transformer': 11},
}


def shake(generator, std=0.05):
    """Stands in for training."""
    torch.manual_seed(0)
    for parameter in generator.trainable_parameters():
        parameter.data += std * torch.randn_like(parameter)


@pytest.mark.parametrize('name', FAMILIES)
def test_default_targets_match_what_was_counted(name, twin_folder):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), lora={'rank': 2})
    adapted = {
        n: sum('lora_A' in p for p, _ in network.named_parameters()) for n, network in generator._networks.items()
    }
    assert adapted == MATCHES[name]
    assert all(p.dtype == torch.float32 for p in generator.trainable_parameters())
    assert len(Policy(generator).state_dict()) == 2 * sum(adapted.values())


@pytest.mark.parametrize('name', FAMILIES)
def test_exported_lora_gives_the_same_result_in_plain_diffusers(name, twin_folder, tmp_path):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), **family.unguided, lora={'rank': 4, 'alpha': 8})
    plain = family.build(twin_folder(family.twin), **family.unguided)
    shake(generator)
    noise = start(generator)
    before = family.run(plain, noise, 'pt')
    ours = generator.decode(sample(generator, noise, plain.pipe.scheduler.sigmas))
    generator.save_pretrained(tmp_path)
    plain.pipe.load_lora_weights(tmp_path)
    if name == 'wan22':
        plain.pipe.load_lora_weights(tmp_path / 'transformer_2', load_into_transformer_2=True)
    theirs = family.run(plain, noise, 'pt')
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs - before).abs().max() > 1e-3


@pytest.mark.parametrize('name', FAMILIES)
def test_exported_transformer_gives_the_same_result_in_plain_diffusers(name, twin_folder, tmp_path):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), **family.unguided)
    plain = family.build(twin_folder(family.twin), **family.unguided)
    shake(generator, 0.02)
    noise = start(generator)
    before = family.run(plain, noise, 'pt')
    ours = generator.decode(sample(generator, noise, plain.pipe.scheduler.sigmas))
    generator.save_pretrained(tmp_path)
    for part in generator._networks:
        loaded = type(getattr(plain.pipe, part)).from_pretrained(tmp_path / part)
        plain.pipe.register_modules(**{part: loaded})
    theirs = family.run(plain, noise, 'pt')
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (theirs - before).abs().max() > 1e-3


@pytest.mark.parametrize('lora', [None, {'rank': 2}], ids=['full', 'lora'])
@pytest.mark.parametrize('name', FAMILIES)
def test_reference_is_the_model_before_training(name, lora, twin_folder):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), lora=lora, keep_reference=lora is None)
    noise, sigmas = start(generator), generator.sigmas(3)
    before = sample(generator, noise, sigmas)
    shake(generator)
    after = sample(generator, noise, sigmas)
    with generator.reference():
        reference = sample(generator, noise, sigmas)
    assert torch.equal(reference, before)
    assert torch.equal(sample(generator, noise, sigmas), after)
    assert not torch.allclose(after, before, atol=1e-4)


@pytest.mark.parametrize('name', FAMILIES)
def test_micro_batches_change_memory_and_not_the_gradient(name, twin_folder):
    """Four samples in one piece, in two and in four: the same loss of a replayed step, the same gradient."""
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), **family.guided)
    conditioning = generator.encode(['a', 'b', 'a cat', 'dogs'])
    noise, advantage = start(generator, count=4), torch.tensor([1.0, -0.5, 2.0, -1.5])
    kernel, loss = FlowKernel(0.7), PolicyLoss()
    sigmas = generator.sigmas(4)
    now, then = sigmas[1].item(), sigmas[2].item()
    with torch.no_grad():
        v = generator.velocity(noise, now, conditioning)
        sampled = kernel.step(noise, v, now, then, noise=start(generator, 1, 4))
    results, peaks = [], []
    for size in (4, 2, 1):
        with torch.no_grad(), PeakMemory() as memory:
            generator.velocity(noise[:size], now, conditioning[:size])
        peaks.append(memory.peak)
        for parameter in generator.trainable_parameters():
            parameter.grad = None
        total = 0.0
        for i in range(0, 4, size):
            part = slice(i, i + size)
            v = generator.velocity(noise[part], now, conditioning[part])
            log_prob = kernel.step(noise[part], v, now, then, x_next=sampled.x_next[part]).log_prob
            value, _ = loss(log_prob, sampled.log_prob[part], advantage[part])
            (value * size / 4).backward()
            total += value.item() * size / 4
        gradient = [p.grad.flatten() for p in generator.trainable_parameters() if p.grad is not None]
        results.append((total, torch.cat(gradient)))
    for total, gradient in results[1:]:
        assert total == pytest.approx(results[0][0], abs=1e-5)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-5, rtol=1e-4)
    assert results[0][1].abs().max() > 1e-4
    assert peaks[0] > 1.5 * peaks[1] > 2 * peaks[2]


@pytest.mark.parametrize('name', FAMILIES)
def test_checkpointing_and_branches_of_the_gradient(name, twin_folder):
    """Checkpointing changes memory alone; a branch without gradient changes the gradient and not the velocity."""
    family = FAMILIES[name]

    def gradient(**options):
        generator = family.build(twin_folder(family.twin), **family.guided, **options)
        v = generator.velocity(start(generator), 0.9, generator.encode(['a', 'b']))
        v.square().mean().backward()
        return v.detach(), torch.cat([p.grad.flatten() for p in generator.trainable_parameters() if p.grad is not None])

    velocity, whole = gradient()
    again, same = gradient(gradient_checkpointing=True)
    torch.testing.assert_close(again, velocity, atol=1e-6, rtol=0)
    torch.testing.assert_close(same, whole, atol=1e-5, rtol=1e-4)
    one_branch, part = gradient(unconditional_gradient=False)
    torch.testing.assert_close(one_branch, velocity, atol=1e-5, rtol=0)
    assert (part - whole).abs().max() > 1e-6


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('lora', [None, {'rank': 2}], ids=['full', 'lora'])
def test_layers_compute_in_bfloat16_and_float32_learns(name, lora, twin_folder):
    family = FAMILIES[name]
    # FLUX rounds 1000 sigma and 1000 times its guidance to bfloat16, which 500 and 4000 survive; 3500 becomes 3504.
    options = {**family.unguided, **({'guidance_scale': 4.0} if name == 'flux' else {})}
    generator = family.build(twin_folder(family.twin), **options, dtype='bfloat16', lora=lora)
    exact = family.build(twin_folder(family.twin), **options)
    seen = {g: watch_layers(g) for g in (generator, exact)}
    noise = start(generator)
    v = generator.velocity(noise, 0.5, generator.encode(['a', 'b']))
    wanted = exact.velocity(noise, 0.5, exact.encode(['a', 'b']))
    assert v.dtype == torch.float32
    assert seen[generator] == {torch.bfloat16}
    assert seen[exact] == {torch.float32}
    # A number of bfloat16 is off by 0.4 % at most.
    assert 0.001 < (v - wanted).norm() / wanted.norm() < 0.01
    frozen = {p.dtype for p in generator.denoiser.parameters() if not p.requires_grad}
    if lora is None:
        assert not frozen
        pairs = zip(generator.denoiser.parameters(), exact.denoiser.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs), 'the checkpoint was rounded on its way'
    else:
        assert torch.bfloat16 in frozen
    assert generator.decode(noise).isfinite().all()

    shake(generator)  # adapters begin at zero, from where any step is large
    generator.velocity(noise, 0.5, generator.encode(['a', 'b'])).square().mean().backward()
    trained = [p for p in generator.trainable_parameters() if p.grad is not None]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in trained)
    before, rate = [p.detach().clone() for p in trained], 1e-6
    torch.optim.AdamW(trained, lr=rate, weight_decay=0.0).step()
    # From 2^-10 on, neighbours in bfloat16 are 4e-6 and more apart: a step of 1e-6 would be rounded away.
    kept = [(old.abs() >= 2**-10) & (p.grad.abs() > 1e-6) for old, p in zip(before, trained, strict=True)]
    assert sum(k.sum().item() for k in kept) > 100
    for old, p, k in zip(before, trained, kept, strict=True):
        step = (p.detach() - old)[k]
        torch.testing.assert_close(step, -rate * p.grad[k].sign(), rtol=0.05, atol=1e-8)
        assert torch.equal(old[k].bfloat16() + step.bfloat16(), old[k].bfloat16())


def watch_layers(generator):
    """The dtypes that the linear layers of the networks give, filled by the next pass."""
    seen = set()
    for module in generator.denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, args, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize(
    ('kind', 'twin', 'options', 'words'),
    [
        ('FluxGenerator', 'flux', {'resolution': 40}, ['generator.resolution 40x40', 'multiples of 16']),
        ('WanGenerator', 'wan21', {'num_frames': 6}, ['generator.num_frames 6', '5 and 9']),
        ('HunyuanVideoGenerator', 'hunyuan_video', {'num_frames': 0}, ['generator.num_frames 0', '1 and 5']),
        ('WanGenerator', 'wan22_5b', {'resolution': 48}, ['generator.resolution 48x48', 'multiples of 32']),
        ('WanGenerator', 'wan21', {'lora': {'targets': ['attn.add_q_proj']}}, ["'attn.add_q_proj' matches no linear"]),
        ('WanGenerator', 'flux', {}, ['holds a FluxPipeline', 'needs a WanPipeline']),
        ('WanGenerator', 'wan21', {'num_frame': 5}, ["Did you mean 'num_frames'"]),
        ('FluxGenerator', 'flux', {'attention': 'natve'}, ["no backend 'natve'", "Did you mean 'native'"]),
        ('WanGenerator', 'wan21', {'attention': 'flash'}, ['does not work under autocast', 'Leave it None']),
        ('SD3Generator', 'sd3', {'attention': 'native'}, ['SD3Transformer2DModel takes no backend']),
        ('FluxGenerator', 'flux', {'true_cfg_scale': 'high'}, ['generator.true_cfg_scale must be float']),
        ('FluxGenerator', 'flux', {'gradient_checkpointing': 3}, ['generator.gradient_checkpointing must be bool']),
    ],
)
def test_mistakes_show_before_weights_are_loaded(kind, twin, options, words, twin_folder, monkeypatch):
    import diffusers

    def load(*_, **__):
        raise AssertionError('the weights were loaded')

    monkeypatch.setattr(diffusers.DiffusionPipeline, 'from_pretrained', load)
    with pytest.raises(ConfigError) as raised:
        GENERATORS.build({'type': kind, 'pretrained': twin_folder(twin), **options}, at='generator')
    for word in words:
        assert word in str(raised.value)


def test_attention_backend_is_used_and_changes_nothing(twin_folder):
    plain, chosen = (FAMILIES['flux'].build(twin_folder('flux'), attention=name) for name in (None, '_native_math'))
    backends = {m.processor._attention_backend for m in chosen.denoiser.modules() if hasattr(m, 'processor')}
    assert {b.value for b in backends} == {'_native_math'}
    noise, sigmas = start(plain), plain.sigmas(2)
    torch.testing.assert_close(sample(plain, noise, sigmas), sample(chosen, noise, sigmas), atol=1e-5, rtol=0)
