"""The update: what must be equal is equal, and what must stop stops."""

import json

import pytest
import torch

import vipo.engine.update as update_module
from tests.engine.conftest import history, run, small_config, weights
from vipo.engine.runner import build_runner, describe
from vipo.engine.scoring import RunStopped
from vipo.registry import ConfigError


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
    runner.train_loop  # noqa: B018 - builds the loop
    loop = runner.train_loop
    batch = {'prompt': ['a', 'b'], 'prompt_id': [0, 1], 'metadata': [{}, {}]}
    samples = loop.prepare(batch)
    start = loop.initial_noise(samples, slice(0, 8))
    assert torch.equal(start[0], start[3])
    assert not torch.equal(start[0], start[4])
    assert len(set(samples.seeds)) == 8


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
    start = loop.initial_noise(samples, slice(0, 8))
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


def test_ranks_that_drifted_apart_stop(monkeypatch):
    import vipo.engine.parallel as parallel

    ours = [torch.tensor([1.0, 2.0])]
    monkeypatch.setattr(parallel, 'get_world_size', lambda: 3)
    theirs = {'same': [(3.0, 5.0)], 'other': [(3.0, 5.5)]}
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, theirs['same'], mine])
    parallel.check_equal_weights(ours)
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, theirs['same'], theirs['other']])
    with pytest.raises(RunStopped, match=r'rank\(s\) \[2\] differ'):
        parallel.check_equal_weights(ours)


def test_values_of_ranks_are_averaged_but_deviations_are_not(monkeypatch):
    import vipo.engine.parallel as parallel

    monkeypatch.setattr(parallel, 'get_world_size', lambda: 2)
    monkeypatch.setattr(parallel, 'all_gather_object', lambda mine: [mine, {'loss': 4.0, 'ratio_deviation': 0.5}])
    assert parallel.over_ranks({'loss': 2.0, 'ratio_deviation': 0.1}) == {'loss': 3.0, 'ratio_deviation': 0.5}
