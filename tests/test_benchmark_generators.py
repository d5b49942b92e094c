"""The comparison of generators with their pipelines runs, and its figures hang together."""

import json

import pytest

from tools.benchmark_generators import FAMILIES, main
from vipo.generators.twins import TWINS


def test_every_twin_can_be_compared():
    assert set(FAMILIES) == set(TWINS)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_figures_of_a_family(name, tmp_path, capsys):
    out = tmp_path / 'figures.json'
    main(['--families', name, '--samples', '2', '--steps', '3', '--repeats', '1', '--out', str(out)])
    figures = json.loads(out.read_text())[name]
    assert all(value > 0 for key, value in figures.items() if key != 'outside the model')
    assert 0 < figures['outside the model'] < 1
    assert figures['rollout / pipeline'] == pytest.approx(
        figures['rollout, samples/s'] / figures['pipeline, samples/s'], rel=1e-6
    )
    assert 'rollout / pipeline' in capsys.readouterr().out
