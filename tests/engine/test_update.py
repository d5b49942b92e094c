"""The update: what must be equal is equal, and what must stop stops."""

import pytest
import torch

import vipo.engine.update as update_module
from tests.engine.conftest import history, run, small_config, weights
from vipo.engine.runner import build_runner
from vipo.engine.scoring import RunStopped


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
    runner = build_runner(cfg(rollout__share_initial_noise=True))
    runner.train_loop  # noqa: B018 - builds the loop
    loop = runner.train_loop
    batch = {'prompt': ['a', 'b'], 'prompt_id': [0, 1], 'metadata': [{}, {}]}
    samples = loop.prepare(batch)
    from vipo.randomness import SampleNoise

    noise = SampleNoise(samples.seeds, runner.components.generator.latent_shape())
    start = loop.initial_noise(samples, slice(0, 8), noise)
    assert torch.equal(start[0], start[3])
    assert not torch.equal(start[0], start[4])
    assert not torch.equal(noise(0)[0], noise(0)[1])
