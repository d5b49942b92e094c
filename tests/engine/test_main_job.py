"""The main job, shrunk: everything that a run does and leaves behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vipo.engine.hooks.evaluation as evaluation_module
from tests.engine.conftest import history, run, small_config, weights
from vipo.engine.checkpoint import load_tensors_only
from vipo.engine.evaluation import Evaluation, evaluate
from vipo.engine.runner import build_runner
from vipo.registry import ConfigError


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    return run(small_config(tmp_path_factory.mktemp('job') / 'run'))


def test_summary_holds_what_the_issue_asks(finished):
    summary = json.loads(Path(finished.work_dir, 'summary.json').read_text())
    wanted = [
        'reward_before',
        'reward_after',
        'reward_std_before',
        'judge_before',
        'judge_after',
        'iterations',
        'wall_seconds',
        'seed',
    ]
    assert set(wanted) <= set(summary)
    assert summary['iterations'] == 2
    assert summary['seed'] == 0
    spread = summary['reward_std_before']
    assert summary['gain'] == pytest.approx((summary['reward_after'] - summary['reward_before']) / spread, rel=1e-4)


@pytest.mark.parametrize('name', ['before_after.png', 'maps.png', 'reward_curve.png'])
def test_pictures_are_written(finished, name):
    picture = np.asarray(Image.open(f'{finished.work_dir}/{name}'))
    assert min(picture.shape[:2]) > 100
    assert picture.std() > 5


def test_history_has_every_iteration_and_first_ratios_of_exactly_one(finished):
    rows = history(finished)
    assert [r['iteration'] for r in rows] == [1, 2]
    assert all(r['first_ratio_deviation'] == 0 for r in rows)
    assert all(r['ratio_deviation'] > 0 for r in rows), 'the second update must see a policy that moved'
    phases = ('encode', 'rollout', 'decode', 'reward', 'map', 'update', 'rest')
    for row in rows:
        parts = sum(row[f'seconds/{p}'] for p in phases)
        assert parts == pytest.approx(row['seconds/total'], rel=1e-6)


def test_checkpoint_loads_with_weights_only_and_holds_trainable_state(finished):
    checkpoint = torch.load(f'{finished.work_dir}/iter_2.pth', weights_only=True)
    assert set(checkpoint['state_dict']) == set(weights(finished))
    assert set(checkpoint['ema']) == set(weights(finished))
    assert {'optimizer', 'meta', 'message_hub'} <= set(checkpoint)


def test_frozen_models_stay_out_of_the_runner(finished):
    inside = set(finished.components.policy.modules())
    pipe = finished.components.generator.pipe
    frozen = (pipe.vae, pipe.text_encoder, pipe.text_encoder_3, finished.components.reward.towers.model)
    assert pipe.transformer in inside
    assert not inside & set(frozen)


def test_policy_never_enters_train_mode(finished):
    """MMEngine calls model.train() before every iteration; dropout would then break the ratio."""
    finished.components.policy.train()
    assert not any(m.training for m in finished.components.policy.modules())


@pytest.mark.parametrize('name', ['grpo_tiny_sd3', 'uniform_tiny_sd3'])
def test_baselines_run(cfg, name):
    runner = run(cfg(name))
    rows = history(runner)
    assert all(r['first_ratio_deviation'] == 0 for r in rows)
    assert ('map/mean' in rows[0]) == (name == 'uniform_tiny_sd3')
    if name == 'uniform_tiny_sd3':
        assert rows[0]['map/entropy'] == pytest.approx(1)


def test_lora_trains_and_saves_adapters_alone(cfg):
    runner = run(cfg(generator__lora__rank=4, loss__kl_weight=0.01))
    state = torch.load(f'{runner.work_dir}/iter_2.pth', weights_only=True)['state_dict']
    assert state and all('lora' in k for k in state)
    rows = history(runner)
    assert rows[0]['first_ratio_deviation'] == 0
    assert rows[1]['kl'] > 0


def test_reference_policy_is_the_model_before_training(cfg):
    runner = run(cfg(generator__lora__rank=4))
    fresh = run_free_velocity(cfg(generator__lora=None))
    generator = runner.components.generator
    conditioning = generator.encode(['a small red circle at the left on a plain gray background'])
    x = torch.randn(1, *generator.latent_shape(), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), generator.reference():
        reference = generator.velocity(x, 0.5, conditioning)
    trained = generator.velocity(x, 0.5, conditioning)
    assert torch.equal(reference, fresh(x, 0.5, conditioning))
    assert not torch.equal(reference, trained)


def run_free_velocity(config):
    from vipo.registry import GENERATORS

    return torch.no_grad()(GENERATORS.build(config.generator).velocity)


def test_full_training_keeps_a_reference_only_where_asked(cfg, tmp_path):
    runner = run(cfg(loss__kl_weight=0.01, generator__keep_reference=True))
    assert history(runner)[1]['kl'] > 0
    with pytest.raises(ConfigError, match='keep_reference'):
        build_runner(small_config(tmp_path, loss__kl_weight=0.01))


def test_evaluation_uses_the_average_and_training_goes_on_with_the_weights(finished):
    """What the run stored as its last evaluation is what the averaged weights draw, and not what the others draw."""
    c = finished.components
    stored = Evaluation.load(Path(finished.work_dir, 'evaluations', 'iter_2.npz')).pixels

    def draw():
        options = {k: getattr(c.evaluation, k) for k in ('num_steps', 'batch_size', 'seed')}
        return evaluate(c.generator, c.policy, c.evaluation.records, {}, clock=finished.clock, **options).pixels

    before = weights(finished)
    with c.ema.applied():
        averaged, inside = draw(), weights(finished)
    assert np.array_equal(stored, averaged)
    assert not np.array_equal(stored, draw())
    assert all(torch.equal(inside[k], c.ema.average[k]) for k in inside)
    assert all(torch.equal(v, before[k]) for k, v in weights(finished).items())


def test_run_without_evaluation_still_reports(cfg):
    folder = Path(run(cfg(evaluation=None)).work_dir)
    assert json.loads((folder / 'summary.json').read_text())['iterations'] == 2
    assert (folder / 'reward_curve.png').exists()
    assert not (folder / 'before_after.png').exists()


def test_a_run_without_scores_at_its_end_still_reports(cfg, monkeypatch):
    evaluate = evaluation_module.evaluate

    def fails_at_the_end(*args, clock, **options):
        result = evaluate(*args, clock=clock, **options)
        if clock.progress.title:
            result.scores['reward'][1:] = float('nan')
        return result

    monkeypatch.setattr(evaluation_module, 'evaluate', fails_at_the_end)
    folder = Path(run(cfg()).work_dir)
    summary = json.loads((folder / 'summary.json').read_text())
    assert summary['reward_std_before'] == 0
    assert 'gain' not in summary
    assert (folder / 'before_after.png').exists()


def test_full_training_in_bfloat16_keeps_float32_weights(cfg, tmp_path):
    runner = run(cfg(generator__dtype='bfloat16', evaluation=None))
    generator = runner.components.generator
    assert all(p.dtype == torch.float32 for p in generator.trainable_parameters())
    assert generator.pipe.vae.dtype == torch.bfloat16
    assert all(r['first_ratio_deviation'] == 0 for r in history(runner))
    untrained = build_runner(small_config(tmp_path / 'start', generator__dtype='bfloat16', evaluation=None))
    start = dict(untrained.components.policy.named_parameters())
    moved = torch.cat([(p.detach() != start[n]).flatten() for n, p in runner.components.policy.named_parameters()])
    assert moved.float().mean() > 0.9


@pytest.mark.slow
def test_equal_seeds_give_equal_runs_and_other_seeds_do_not(tmp_path):
    runs = [
        run(small_config(tmp_path / str(i), randomness__seed=seed, train_cfg__max_iters=1))
        for i, seed in enumerate((3, 3, 4))
    ]
    first, second, third = (weights(r) for r in runs)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert any(not torch.equal(first[k], third[k]) for k in first)


@pytest.mark.parametrize('section', [None, {}, {'deterministic': False}])
def test_without_a_seed_it_is_0(cfg, section):
    config = cfg(evaluation=None)
    config.randomness = section
    assert build_runner(config).seed == 0


def test_loader_refuses_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'executed'), 'w'))

    torch.save({'state_dict': Evil()}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='never executed'):
        load_tensors_only(str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'executed').exists()
