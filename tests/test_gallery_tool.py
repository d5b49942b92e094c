"""``tools/gallery.py`` picks the pairs that it names."""

import numpy as np
import pytest
from PIL import Image

from tools.gallery import main
from vipo.engine.evaluation import Evaluation


@pytest.fixture
def run(tmp_path):
    """Four prompts; picture i is a grey of 40 (i + 1) before, and one level brighter after."""
    grey = np.array([40, 80, 120, 160], np.uint8).reshape(4, 1, 1, 1, 1)
    for number, rewards in ((0, [0.5, 0.5, 0.5, 0.5]), (30, [0.6, 0.2, 0.9, np.nan])):
        pixels = np.broadcast_to(grey + (number > 0), (4, 3, 1, 16, 16))
        names = [f'prompt {i}' for i in range(4)]
        Evaluation(names, {'reward': np.array(rewards)}, pixels).save(tmp_path / 'evaluations' / f'iter_{number}.npz')
    return tmp_path


def greys(path):
    sheet = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    sheet = sheet[(sheet == sheet[:, :1]).all(1)][:, 0]
    return {g for g in (40, 41, 80, 81, 120, 121, 160, 161) if (sheet == g).sum() >= 100 * 100}


@pytest.mark.parametrize(
    ('arguments', 'shown'),
    [
        (['--best', '1'], {120, 121}),
        (['--worst', '1'], {80, 81}),
        (['--first', '1'], {40, 41}),
        (['--best', '1', '--worst', '1'], {120, 121, 80, 81}),
        ([], {40, 41, 80, 81, 120, 121, 160, 161}),
    ],
)
def test_pairs_that_are_asked_for(run, capsys, arguments, shown):
    assert main([str(run), *arguments]) == 0
    assert greys(run / 'gallery.png') == shown
    assert str(run / 'gallery.png') in capsys.readouterr().out


def test_run_that_is_not_finished(run, capsys):
    (run / 'evaluations' / 'iter_30.npz').unlink()
    assert main([str(run)]) == 2
    assert 'holds 1 evaluations' in capsys.readouterr().err
