"""The comparison of batches with single calls runs for every reward; its figures are the machine's and not judged."""

import json

import pytest

from tools.benchmark_rewards import REWARDS, main


def test_figures_of_every_reward(tmp_path, capsys):
    out = tmp_path / 'figures.json'
    main(['--pictures', '2', '--repeats', '1', '--side', '32', '--out', str(out)])
    figures, said = json.loads(out.read_text()), capsys.readouterr().out
    left_out = {name for name in REWARDS if name not in figures}
    assert left_out <= {'ocr'}
    assert all(f"{name:32s} left out: config key '{name}': " in said and 'vipo[ocr]' in said for name in left_out)
    for row in figures.values():
        assert all(value > 0 for value in row.values())
        assert row['ratio'] == pytest.approx(row['batch, ms'] / row['one by one, ms'])
