"""Early stop and best checkpoint follow held-out scores, also through a resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

import vipo.engine.hooks.evaluation as evaluation_module
from tests.engine.conftest import run, small_config, weights
from vipo.engine.evaluation import Evaluation
from vipo.engine.hooks import EarlyStopHook
from vipo.engine.runner import build_runner
from vipo.registry import ConfigError

NAN = float('nan')
#: Held-out scores before training and after each iteration.
SCORES = [0.5, 0.25, 1.0, 0.75, NAN, 0.875, 1.125]


class Interrupt(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 3:
            raise KeyboardInterrupt


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations that cost nothing and give :data:`SCORES`."""
    runners = []

    def evaluate(generator, velocity, records, rewards, *, clock, **_):
        done = 0 if not clock.progress.title else int(clock.progress.title.split()[1].partition('/')[0])
        runners.append(done)
        row = {name: np.full(len(records), SCORES[done]) for name in rewards}
        return Evaluation([r['prompt'] for r in records], row, np.zeros((len(records), 3, 1, 8, 8), np.uint8))

    monkeypatch.setattr(evaluation_module, 'evaluate', evaluate)
    return runners


def config(folder, **more):
    return small_config(
        folder,
        train_cfg__max_iters=6,
        default_hooks__evaluation__interval=1,
        default_hooks__early_stop={'type': 'EarlyStopHook', 'patience': 3},
        default_hooks__best={'type': 'BestCheckpointHook'},
        default_hooks__checkpoint__interval=2,
        **more,
    )


@pytest.mark.slow
def test_a_run_stops_keeps_its_best_and_resumes_exactly(tmp_path, scripted):
    """Best after iteration 2; 3, 4 and 5 give nothing better, so 6 is never reached."""
    whole = run(config(tmp_path / 'whole'))
    assert whole.iter == 5
    assert scripted == [0, 1, 2, 3, 4, 5]
    folder = tmp_path / 'whole'
    best = torch.load(folder / 'best.pth', weights_only=True)
    assert best['meta']['iter'] == 2
    state = best['held_out']['BestCheckpointHook:eval/reward']
    assert (state['best'], state['best_at'], state['since']) == (1.0, 2, 0)
    last = torch.load(folder / 'iter_5.pth', weights_only=True)
    assert last['held_out']['EarlyStopHook:eval/reward']['since'] == 3
    summary = json.loads((folder / 'summary.json').read_text())
    assert (summary['iterations'], summary['reward_before'], summary['reward_after']) == (5, 0.5, 0.875)

    first = build_runner(config(tmp_path / 'cut'))
    first.register_hook(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = run(config(tmp_path / 'cut', resume=True))
    assert second.iter == 5
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(second).items())
    again = torch.load(tmp_path / 'cut' / 'best.pth', weights_only=True)
    assert again['held_out'] == best['held_out']
    assert all(torch.equal(v, again['state_dict'][k]) for k, v in best['state_dict'].items())
    ours = torch.load(tmp_path / 'cut' / 'iter_5.pth', weights_only=True)
    assert ours['held_out'] == last['held_out']

    assert run(config(tmp_path / 'cut', resume=True)).iter == 5, 'a run that was stopped stays so'
    patient = config(tmp_path / 'cut', resume=True, default_hooks__early_stop__patience=4)
    assert run(patient).iter == 6
    assert torch.load(tmp_path / 'cut' / 'best.pth', weights_only=True)['meta']['iter'] == 6


@pytest.mark.slow
def test_best_of_an_abandoned_future_is_set_aside_and_a_new_run_starts_afresh(tmp_path, scripted):
    run(config(tmp_path / 'run'))
    cfg = config(tmp_path / 'run', resume=True, load_from=str(tmp_path / 'run' / 'iter_4.pth'))
    runner = build_runner(cfg)
    best = tmp_path / 'run' / 'best.pth'
    torch.save({'meta': {'iter': 5}}, best)
    runner.train()
    assert torch.load(tmp_path / 'run' / 'best.set_aside_0.pth', weights_only=True)['meta'] == {'iter': 5}
    assert not best.exists()
    new_best = tmp_path / 'run' / 'best.pth'
    torch.save({'meta': {'iter': 2}}, new_best)
    elsewhere = build_runner(config(tmp_path / 'other', resume=True, load_from=str(tmp_path / 'run' / 'iter_5.pth')))
    elsewhere.train()
    taken = torch.load(tmp_path / 'other' / 'best.pth', weights_only=True)
    assert taken == {'meta': {'iter': 2}}, 'the best so far goes along into another work dir'
    new = run(config(tmp_path / 'new', load_from=str(tmp_path / 'run' / 'iter_5.pth')))
    assert new.iter == 5, 'the count of the run whose weights it took does not go on'


def test_min_delta_and_scores_that_are_no_numbers(tmp_path):
    hook = EarlyStopHook(patience=9, min_delta=0.1)
    runner = build_runner(small_config(tmp_path))
    for done, score in enumerate([NAN, 0.5, 0.6, 0.65, NAN, 0.5]):
        hook.after_evaluation(runner, done, {'reward': score})
        assert (hook.best_at, hook.since) == [(0, 1), (1, 0), (1, 1), (3, 0), (3, 1), (3, 2)][done]


@pytest.mark.parametrize(
    ('more', 'words'),
    [
        ({'default_hooks__evaluation__interval': 0}, r'early_stop.*interval larger than 0 \(it is 0\)'),
        ({'evaluation': None}, r'early_stop.*section evaluation'),
        ({'default_hooks__early_stop__metric': 'eval/jugde'}, "metric='eval/jugde' is none of eval/reward, eval/judge"),
        ({'default_hooks__early_stop__metric': 'reward'}, "metric='reward' is none of"),
        ({'default_hooks__early_stop__patience': 0}, 'patience must be at least 1'),
        ({'default_hooks__early_stop__min_delta': -1.0}, 'min_delta must be at least 0'),
        ({'default_hooks__checkpoint': None}, 'default_hooks.best.*default_hooks.checkpoint'),
    ],
)
def test_mistakes_show_before_training(tmp_path, more, words):
    cfg = config(tmp_path)
    for key, value in more.items():
        section = cfg
        *path, name = key.split('__')
        for part in path:
            section = section[part]
        section[name] = value
    with pytest.raises(ConfigError, match=words):
        build_runner(cfg)
    assert not list(Path(tmp_path).glob('*.pth'))
