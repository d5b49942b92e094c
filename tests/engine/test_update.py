"""The update: what must be equal is equal, and what must stop stops."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

import vipo.engine.update as update_module
from tests.engine.conftest import history, run, small_config, weights
from tests.engine.launch import flat
from vipo.diffusion import StepPlan, integrate
from vipo.engine.runner import build_runner, describe
from vipo.engine.scoring import RunStopped
from vipo.randomness import SampleNoise
from vipo.registry import ConfigError
from vipo.structurers import Allocator


def test_mismatched_geometry_stops_with_a_message(cfg, monkeypatch):
    """Old log-probs of micro-batches of 4 against a replay one by one, without computing them again."""
    monkeypatch.setattr(update_module, '_recompute', lambda model, samples, c, clock: samples.trajectory.log_prob)
    with pytest.raises(RunStopped, match=r'max \|ratio - 1\|.*replay_micro_batch_size'):
        run(cfg(batch__replay_micro_batch_size=1, train_cfg__ratio_tolerance=0.0, evaluation=None))


def test_other_replay_geometry_recomputes_and_starts_at_ratio_one(cfg):
    runner = run(cfg(batch__replay_micro_batch_size=2))
    rows = history(runner)
    assert all(r['first_ratio_deviation'] == 0 for r in rows)
    assert rows[0]['seconds/old log-probs'] > 0


def test_train_mode_of_a_module_is_noticed(cfg):
    """Anything that makes replay differ from rollout shows in the first ratio, whatever its cause."""
    runner = build_runner(cfg(evaluation=None))
    layer = runner.components.generator.denoiser.norm_out
    forward, calls = layer.forward, []

    def drifting(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs) * (1 + 1e-3 * torch.is_grad_enabled())

    layer.forward = drifting
    with pytest.raises(RunStopped, match='before any update'):
        runner.train()
    assert calls


def test_micro_batch_size_changes_memory_and_not_the_result(tmp_path):
    """Plain gradient descent with step 1 and no clipping: the weights show the gradient itself."""
    results = []
    for size in (1, 2, 4):
        runner = run(
            small_config(
                tmp_path / str(size),
                batch__micro_batch_size=size,
                batch__updates_per_iteration=1,
                train_cfg__max_iters=1,
                optim_wrapper={'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 1.0}, '_delete_': True},
                evaluation=None,
            )
        )
        results.append((weights(runner), history(runner)[0]['policy_loss']))
    (first, loss), *others = results
    for other, other_loss in others:
        assert other_loss == pytest.approx(loss, abs=1e-5)
        assert all(torch.allclose(first[k], other[k], atol=1e-5, rtol=0) for k in first)
    start = weights(build_runner(small_config(tmp_path / 'start')))
    assert max((first[k] - start[k]).abs().max() for k in first) > 1e-3, 'there must be a gradient to compare'


def test_norm_of_the_gradient_is_in_the_history(tmp_path):
    """Steps of plain descent are as long as their gradients; a bound that is never reached only measures."""
    steps = []

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            optimizer = runner.optim_wrapper.optimizer
            optimizer.register_step_pre_hook(lambda *_: steps.append(flat(weights(runner))))
            optimizer.register_step_post_hook(lambda *_: steps.append(flat(weights(runner))))

    runner = build_runner(
        small_config(
            tmp_path,
            train_cfg__max_iters=1,
            optim_wrapper={
                'type': 'OptimWrapper',
                'optimizer': {'type': 'SGD', 'lr': 0.01},
                'clip_grad': {'max_norm': 1e9},
                '_delete_': True,
            },
            evaluation=None,
        )
    )
    runner.register_hook(Watch())
    runner.train()
    first, second = ((b - a).norm().item() / 0.01 for a, b in (steps[:2], steps[2:]))
    assert first != pytest.approx(second, rel=0.01)
    assert history(runner)[0]['grad_norm'] == pytest.approx((first + second) / 2, rel=1e-3)


def test_gradient_that_is_not_finite_stops_before_the_optimiser_step(cfg):
    runner = build_runner(cfg(evaluation=None))
    parameter = next(iter(runner.components.generator.trainable_parameters()))
    before = weights(runner)
    parameter.register_hook(lambda g: g * float('nan'))
    with pytest.raises(RunStopped, match='not finite'):
        runner.train()
    after = weights(runner)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_shared_initial_noise_gives_a_group_one_start(cfg):
    runner = build_runner(cfg(rollout__share_initial_noise=True, rollout__antithetic=False))
    loop = runner.train_loop
    batch = {'prompt': ['a', 'b'], 'prompt_id': [0, 1], 'metadata': [{}, {}]}
    samples = loop.prepare(batch)
    samples = dataclasses.replace(samples, plan=StepPlan(frozenset({0}), (0,)))
    start, step = loop.initial_latents(samples, loop.components.generator.sigmas(4))
    assert step == 0
    assert torch.equal(start[0], start[3])
    assert not torch.equal(start[0], start[4])
    assert len(set(samples.seeds)) == 8


def test_group_is_one_trajectory_up_to_its_first_stochastic_step(cfg):
    """Computed once per group, it equals what every sample gives from its own copy of the start."""
    loop = build_runner(cfg(rollout__share_initial_noise=True)).train_loop
    c, passes = loop.components, []
    c.policy.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    samples = loop.prepare({'prompt': ['a red ring', 'b'], 'prompt_id': [0, 1], 'metadata': [{}, {}]})
    samples.plan = StepPlan(frozenset({2}), (2,))
    loop.rollout(samples)
    assert passes == [2, 2, 4, 4, 4, 4], 'two prompts for two steps, then two micro-batches for two steps'
    noise = SampleNoise(samples.group_seeds, c.generator.latent_shape())('initial')
    sigmas = c.generator.sigmas(4)
    with torch.no_grad():
        each = integrate(lambda x, sigma: c.policy(x, sigma, samples.conditioning), noise, sigmas[:3])
    torch.testing.assert_close(samples.trajectory.states[0], each, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def replay(loop, samples):
    """Means of the first trained transition."""
    c = loop.components
    now, then = c.generator.sigmas(c.rollout.num_steps)[:2].tolist()
    state = samples.trajectory.states[0]
    velocity = c.policy(state, now, samples.conditioning)
    return c.rollout.kernel.step(state, velocity, now, then, noise=torch.zeros_like(velocity)).mean


@pytest.mark.parametrize('shared', [False, True])
def test_antithetic_pairs_take_opposite_noise_from_one_start(cfg, shared):
    first = {'_delete_': True, 'type': 'Window', 'size': 1, 'first': 0, 'last': 0}
    options = {'rollout__antithetic': True, 'rollout__share_initial_noise': shared, 'rollout__selector': first}
    loop = build_runner(cfg(**options)).train_loop
    samples = loop.prepare({'prompt': ['a', 'b'], 'prompt_id': [0, 1], 'metadata': [{}, {}]})
    loop.rollout(samples)
    start, step = loop.initial_latents(samples, loop.components.generator.sigmas(4))
    assert step == 0
    assert torch.equal(start[0], start[1])
    assert torch.equal(start[0], start[2]) == shared
    states, then = samples.trajectory.states[0], samples.trajectory.next_states[0]
    # Equal states have equal means, so what two samples differ by is their noise.
    assert torch.equal(states[0::2], states[1::2])
    mean = replay(loop, samples)
    assert torch.allclose(then[0::2] - mean[0::2], mean[1::2] - then[1::2], atol=1e-5)
    assert (then - mean).std() > 0.1
    with pytest.raises(ConfigError, match='odd'):
        build_runner(cfg(rollout__antithetic=True, batch__group_size=3, batch__micro_batch_size=3))


def test_a_prompt_that_comes_twice_makes_two_groups(cfg):
    loop = build_runner(cfg(rollout__antithetic=False)).train_loop
    samples = loop.prepare({'prompt': ['a', 'a'], 'prompt_id': [3, 3], 'metadata': [{}, {}]})
    assert samples.group.tolist() == [0] * 4 + [1] * 4
    assert len(set(samples.seeds)) == 8
    assert len(set(samples.group_seeds)) == 2


SEEN = []


def brightness(pixels, prompts, metadata):
    SEEN.extend(zip(prompts, metadata, strict=True))
    return pixels.mean((1, 2, 3, 4))


def test_rewards_get_the_record_of_their_own_prompt(tmp_path):
    file = tmp_path / 'prompts.jsonl'
    records = [{'prompt': p, 'answer': p.upper(), p: 1} for p in ('red', 'blue', 'big')]
    file.write_text('\n'.join(map(json.dumps, records)))
    SEEN.clear()
    reward = {'_delete_': True, 'type': 'FunctionReward', 'function': 'tests.engine.test_update.brightness'}
    run(small_config(tmp_path, train_dataloader__dataset__file=str(file), evaluation=None, reward=reward))
    assert len(SEEN) == 16
    assert all(record['answer'] == prompt.upper() and record[prompt] == 1 for prompt, record in SEEN)


def bare_structurer():
    return lambda pixels, grid: torch.ones(len(pixels), 1, *grid)


def bare_loss():
    def reinforce(new, old, advantage, allocation=None, kl_input=None):
        loss = -(advantage[:, None, None, None] * allocation[:, 0] * (new - old).exp()).mean()
        return loss, {'policy_loss': loss.detach()}

    return reinforce


def bare_reward():
    return lambda pixels, prompts, metadata: pixels[:, 0].mean((1, 2, 3)).tolist()


def test_bare_callables_that_keep_the_contracts_train(cfg):
    options = {n: {'_delete_': True, 'type': f'{__name__}.bare_{n}'} for n in ('structurer', 'loss', 'reward')}
    runner = run(cfg(**options))
    rows = history(runner)
    assert all(r['first_ratio_deviation'] == 0 for r in rows)
    assert rows[0]['ratio_deviation'] > 0
    assert 'map         function' in describe(runner)
    # Such a loss clips nothing, and the line does not claim a fraction.
    line = next(iter(Path(runner.log_dir).glob('*.log'))).read_text()
    assert 'iteration 2/2' in line
    assert 'clipped' not in line.partition('iteration 1/2')[2]


class HalfBroken(Allocator):
    def __call__(self, features, cls_attention=None):
        maps = features[:, :, 0].abs()
        maps[: len(maps) // 2] = torch.nan
        return maps


def test_maps_that_are_not_finite_are_counted_and_reported(cfg):
    allocator = {'_delete_': True, 'type': f'{__name__}.HalfBroken'}
    runner = run(cfg(structurer__allocator=allocator))
    assert [r['map/broken_frames'] for r in history(runner)] == [0.5, 0.5]
    assert [r['map/constant_frames'] for r in history(runner)] == [0, 0]
    line = next(iter(Path(runner.log_dir).glob('*.log'))).read_text()
    assert 'WARNING: the allocator gave no finite map for 50.0% of the frames' in line


def test_values_of_ranks_are_averaged_but_deviations_are_not(monkeypatch):
    import vipo.engine.parallel as parallel

    monkeypatch.setattr(parallel, 'get_world_size', lambda: 2)
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, (1, {'loss': 6.0, 'ratio_deviation': 0.5})])
    # Three samples here, one there.
    averaged = parallel.over_ranks({'loss': 2.0, 'ratio_deviation': 0.1}, samples=3)
    assert averaged == {'loss': 3.0, 'ratio_deviation': 0.5}


def test_offloaded_parts_are_on_the_device_while_they_work_and_no_longer(tmp_path, monkeypatch):
    """The same result, and of each part the moves there and back around every use."""
    options = {'evaluation': None, 'train_cfg__max_iters': 1}
    plain = run(small_config(tmp_path / 'plain', **options))
    runner = build_runner(small_config(tmp_path / 'off', offload=['autoencoder', 'reward', 'map'], **options))
    c, events = runner.components, []
    c.device = torch.device('cpu', 0)  # where a GPU would be
    watched = {'autoencoder': c.generator.autoencoder, 'reward': c.reward, 'map': c.structurer}
    for name, part in watched.items():
        monkeypatch.setattr(part, 'to', lambda where, name=name: events.append((name, type(where).__name__)))
    runner.train()
    # A device comes from the components, the word 'cpu' from sending away.
    used = ['autoencoder', 'map', *watched]  # for the trial of the map, then in the iteration
    assert events == [(name, kind) for name in used for kind in ('device', 'str')]
    ours, theirs = weights(runner), weights(plain)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    with pytest.raises(ConfigError, match=r"no part 'autoencodr'.*'autoencoder'"):
        build_runner(small_config(tmp_path / 'wrong', offload=['autoencodr'], **options))
