"""Tables and figures from a small CSV whose numbers are known."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.engine.conftest import ROOT
from tools import study_signal
from tools.studies.collect import CURVE, RESULTS
from tools.studies.report import BEGIN, END, Results, _outlier, write_report
from tools.study import main
from vipo.statistics import Interval

#: Changes by seed, of two variants.
REWARD = {'grpo': (0.1, 0.2, 0.3), 'vipo': (0.3, 0.4, 0.6)}


@pytest.fixture
def folder(tmp_path):
    with open(tmp_path / 'results.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(RESULTS)
        for variant, changes in REWARD.items():
            for seed, change in enumerate(changes):
                writer.writerow(['a', variant, seed, 'reward', 1.0, 1.0 + change, change, change - 0.01, change + 0.01])
        for seed in range(3):
            writer.writerow(['a', 'grpo', seed, 'judge', 0.9, 0.91, 0.01, 0.0, 0.02])
        writer.writerow(['a', 'vipo', 0, 'change/background', '', '', 0.25, 0.2, 0.3])
        writer.writerow(['d', 'red_grpo', 0, 'reward', 0, 0.5, 0.5, 0.45, 0.55])
    with open(tmp_path / 'redness.csv', 'w', newline='') as file:
        rows = [['red_grpo', 0, i, m, i / 20] for i in (0, 10) for m in ('reward', 'judge', 'judge/shape')]
        csv.writer(file).writerows([CURVE, *rows])
    return tmp_path


def test_numbers(folder):
    """By hand: std 0.153, three seeds, t = 4.303; the differences of pairs are 0.2, 0.2 and 0.3."""
    results = Results(folder / 'results.csv')
    change = results.change('vipo', 'reward')
    half = 4.303 * 0.152753 / np.sqrt(3)
    middle = 0.433333
    assert (change.value, change.low, change.high) == pytest.approx((middle, middle - half, middle + half), abs=2e-6)
    less = results.against('vipo', 'reward', 'grpo')
    half = 4.303 * 0.0577350 / np.sqrt(3)
    assert (less.value, less.high) == pytest.approx((0.233333, 0.233333 + half), abs=2e-6)
    # a single seed has the interval of its prompts, and no difference from others
    assert results.change('vipo', 'change/background').low == 0.2
    assert results.against('vipo', 'change/background', 'grpo') is None
    assert results.against('grpo', 'reward', 'grpo') is None
    assert results.change('grpo', 'change/background') is None


def test_page_and_figures(folder):
    page, figures = write_report(folder)
    text = page.read_text()
    assert '| `vipo` | 3 | +0.43 (+0.05 to +0.81) |  |  |  |  | 0.25' in text
    assert 'Less `grpo`:' in text
    assert '| `vipo` | +0.23 (+0.09 to +0.38) |' in text
    assert '| `red_grpo` | 1 | +0.50' in text
    assert 'section_e.png' not in text
    # three seeds of two variants and one of another; vipo less grpo and the other way round
    assert '7 jobs are done. The tables hold 2 differences; 2 of their intervals exclude zero, where 0 would' in text
    assert [figure.name for figure in figures] == ['overview.png', 'section_a.png', 'section_d.png', 'redness.png']
    for figure in figures:
        assert np.asarray(Image.open(figure).convert('L')).std() > 5
        assert f'({figure.name})' in text


def test_front_page_gets_a_short_table(folder, tmp_path):
    front = tmp_path / 'FRONT.md'
    front.write_text(f'Why.\n\n{BEGIN}\n{END}\n\nHow.\n')
    write_report(folder, front)
    text = front.read_text()
    assert text.startswith('Why.')
    assert text.endswith('How.\n')
    assert '| ViPO as shipped (`vipo`) | 3 | +0.43 (+0.05 to +0.81) |' in text
    assert text.count('\n| ') == 4, 'a heading, its line, and the two variants that have results'


def test_words_around_the_tables_stay(folder):
    page, _ = write_report(folder)
    once = page.read_text()
    page.write_text(once.replace('# The study\n', '# The study\n\nWhat we found.\n') + '\nHow sure we are.\n')
    assert main(['--report', '--out', str(folder)]) == 0
    text = page.read_text()
    assert text.index('What we found.') < text.index(BEGIN) < text.index(END) < text.index('How sure we are.')
    assert text.count('### a.') == 1
    page.write_text('# no marks')
    assert main(['--report', '--out', str(folder)]) == 2
    assert page.read_text() == '# no marks'


def test_one_line_far_from_all_others_is_found():
    def lines(*values):
        return [None if value is None else Interval(value, value - 0.1, value + 0.1) for value in values]

    assert _outlier(lines(0.0, 0.3, None, -8.0, 0.2)) == 3
    assert _outlier(lines(0.0, 0.3, 0.9, 0.2)) is None
    assert _outlier(lines(0.0, 8.0, 0.3)) is None, 'of three, which one is far?'


def test_figures_are_the_same_every_time(folder):
    first = [figure.read_bytes() for figure in write_report(folder)[1]]
    assert first == [figure.read_bytes() for figure in write_report(folder)[1]]


def test_missing_table_says_where_it_comes_from(tmp_path, capsys):
    assert main(['--report', '--out', str(tmp_path)]) == 2
    assert 'tools/study.py writes one' in capsys.readouterr().err


@pytest.mark.slow
def test_shipped_pages_are_those_of_the_shipped_tables(tmp_path):
    shipped = ROOT / 'docs' / 'study'
    for name in ('results.csv', 'redness.csv', 'signal.csv', 'README.md', 'signal.md'):
        shutil.copy(shipped / name, tmp_path / name)
    shutil.copy(ROOT / 'README.md', tmp_path / 'FRONT.md')
    write_report(tmp_path, tmp_path / 'FRONT.md')
    study_signal.report(tmp_path)
    assert (tmp_path / 'README.md').read_text() == (shipped / 'README.md').read_text()
    assert (tmp_path / 'signal.md').read_text() == (shipped / 'signal.md').read_text()
    assert (tmp_path / 'FRONT.md').read_text() == (ROOT / 'README.md').read_text()
