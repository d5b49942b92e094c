"""The benchmark's figures: timers against a clock of our own, and both commands on a small main job."""

import dataclasses
import json
import sys

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL
from tools import benchmark

CONFIG = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
OPTIONS = {k: v for k, v in SMALL.items() if k != 'train_cfg.max_iters'}


def test_timer_adds_up_what_each_name_took(monkeypatch):
    times = iter([10.0, 12.0, 20.0, 25.0, 30.0, 30.5])
    monkeypatch.setattr(benchmark.ModelTimer, '_now', staticmethod(lambda: next(times)))
    timer, layer = benchmark.ModelTimer(), torch.nn.Linear(2, 2)
    timer.watch('layer', layer)
    timer.watch_call('sum', layer, 'extra_repr')
    layer(torch.zeros(1, 2))  # 10 to 12
    layer(torch.zeros(1, 2))  # 20 to 25
    layer.extra_repr()  # 30 to 30.5
    assert timer.seconds == {'layer': 7.0, 'sum': 0.5}


def test_loop_names_every_model_and_leaves_a_remainder():
    result = benchmark.benchmark_loop(CONFIG, 1, OPTIONS)
    models = {'denoiser forward', 'autoencoder', 'reward model', 'backbone', 'backward'}
    assert models <= set(result)
    assert all(result[name] > 0 for name in models)
    assert result['everything else'] >= 0
    assert result['total'] == pytest.approx(
        sum(v for k, v in result.items() if k not in ('total', 'of it the map stage'))
    )
    assert result['of it the map stage'] >= result['backbone']


def test_signal_of_samples_whose_gradients_are_known(monkeypatch):
    """Three times the same samples, the third with every advantage turned round: cosines 1, -1 and -1."""
    from vipo.engine.loop import PolicyLoop

    collect, kept = PolicyLoop.collect, []

    def again(self, batch):
        kept.append(kept[0] if kept else collect(self, batch))
        sign = -1 if len(kept) == 3 else 1
        return dataclasses.replace(kept[0], advantage=sign * kept[0].advantage)

    monkeypatch.setattr(PolicyLoop, 'collect', again)
    result = benchmark.benchmark_signal(CONFIG, 3, OPTIONS)
    assert result['cosine'] == pytest.approx(-1 / 3, abs=1e-6)
    # The sample standard deviation of 1, -1 and -1 is 2 / sqrt(3).
    assert result['standard error'] == pytest.approx(2 / 3, abs=1e-6)
    groups = kept[0].reward.scores.view(2, 4)
    assert result['std within group'] == pytest.approx(groups.std(dim=1).mean().item())


def test_command_prints_shares_and_writes_them(monkeypatch, capsys, tmp_path):
    figures = {'backward': 3.0, 'everything else': 1.0, 'total': 4.0}
    monkeypatch.setattr(benchmark, 'benchmark_loop', lambda *_: figures)
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', 'loop', CONFIG, '--out', str(tmp_path / 'figures.json')])
    benchmark.main()
    assert 'everything else 1.000 s 25.00%' in ' '.join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / 'figures.json').read_text()) == figures
