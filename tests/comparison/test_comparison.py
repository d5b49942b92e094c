"""``tools/compare.py`` on work dirs whose numbers are known."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from tools import compare as tool
from vipo.comparison import charts, group_runs, read_run
from vipo.comparison.groups import differences
from vipo.comparison.tables import compare_results
from vipo.engine.evaluation import Evaluation
from vipo.engine.results import HeldOutResults
from vipo.registry import ConfigError

PROMPTS = [f'a prompt with <b>{i}</b> & "quotes"' for i in range(12)]
VOID = {'meta', 'link', 'img', 'br', 'line', 'circle', 'path', 'rect', 'use'}


def write_run(
    folder, name='one', seed=0, gain=0.1, lr=1e-4, prompts=PROMPTS, done=4, planned=4, reward='HPSReward', maps=True
):
    """A work dir as a run leaves it; the held-out reward of prompt i goes from i / 10 to i / 10 + gain + seed / 100."""
    folder.mkdir(parents=True)
    (folder / f'{name}.py').write_text(
        f"reward = dict(type='{reward}')\noptim = dict(lr={lr})\nrandomness = dict(seed={seed})\n"
        f"train_cfg = dict(type='PolicyLoop', max_iters={planned})\nwork_dir = '{folder}'\n"
    )
    with open(folder / 'history.jsonl', 'w') as file:
        for i in range(1, done + 1):
            record = {'iteration': i, 'reward': 0.5 + gain * i, 'reward_std': 0.1, 'clipped_fraction': 0.01}
            record |= {'seconds/rollout': 2.0, 'seconds/total': 3.0, 'wall_seconds': 60.0 * i}
            file.write(json.dumps(record | {'memory/peak_mib': 512.0 * i}) + '\n')
    setup = json.dumps({'reward': {'type': reward}, 'eval_rewards': {'judge': {'type': 'SceneJudge'}}})
    count = len(prompts)
    before = np.arange(count) / 10
    pixels = np.full((count, 3, 1, 16, 16), 100, np.uint8)
    for number in {0, done}:
        after = number > 0
        scores = {
            'reward': before + after * (gain + seed / 100),
            'judge': np.ones(count),
            'judge/shape': np.ones(count),
        }
        path = folder / 'evaluations' / f'iter_{number}.npz'
        Evaluation(list(prompts), scores, pixels + np.uint8(50 * after), setup).save(path)
    if maps and done == planned:
        np.savez(folder / 'maps.npz', maps=np.ones((5, 1, 4, 4), np.float32))
    return folder


def write_test(folder, diversity=0.3):
    target = folder / 'test' / 'iter_4'
    target.mkdir(parents=True)
    columns = {
        'before/reward': np.full(12, 0.5),
        'after/reward': np.full(12, 0.6),
        'before/diversity/pixels': np.full(12, 0.3),
        'after/diversity/pixels': np.full(12, diversity),
        'change/background': np.full(12, 0.05),
        'distance/gaussian_kl': np.full(12, 7.0),
    }
    about = {'rewards': {'reward': {'type': 'HPSReward'}}, 'spaces': {}, 'kernel': {'eta': 0.9}}
    HeldOutResults(PROMPTS, columns, about).save(target)


class Page(HTMLParser):
    """Tags that were left open, every attribute, and the text."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.attributes, self.words, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.words).split())


def compare(tmp_path, *folders, code=0):
    assert tool.main([*map(str, folders), '--out', str(tmp_path / 'out')]) == code
    text = (tmp_path / 'out' / 'report.html').read_text() if code == 0 else ''
    return text, Page(text)


@pytest.fixture
def four(tmp_path):
    """Two groups of two seeds, each tested."""
    folders = [write_run(tmp_path / f'a{s}', 'one', s) for s in (0, 1)]
    folders += [write_run(tmp_path / f'b{s}', 'two', s, gain=0.3, maps=False) for s in (0, 1)]
    for folder in folders:
        write_test(folder, 0.3 if folder.name[0] == 'a' else 0.1)
    return folders


def test_page_needs_nothing_else(tmp_path, four):
    text, page = compare(tmp_path, *four)
    assert not page.stack
    assert 'script' not in page.tags
    for name, value in page.attributes:
        assert name not in ('src', 'href', 'xlink:href') or value.startswith(('data:', '#')), (name, value)
    assert 'url(' not in text.replace('url(#', '')
    assert '@import' not in text
    ids = [value for name, value in page.attributes if name == 'id']
    assert len(ids) == len(set(ids))
    used = {v[1:] for n, v in page.attributes if n in ('href', 'xlink:href') and v.startswith('#')}
    assert (used | set(re.findall(r'url\(#([^)]*)\)', text))) <= set(ids)
    assert '<b>0</b>' not in text, 'a prompt is text'
    assert PROMPTS[0] in page.text
    for name in ('gallery', 'rollouts', 'held_out_reward', 'held_out_judge', 'clipped_fraction', 'time'):
        assert (tmp_path / 'out' / f'{name}.png').stat().st_size > 1000


def test_page_says_the_numbers(tmp_path, four):
    _, page = compare(tmp_path, *four)
    # after: mean of i / 10 over 12 prompts, gain, and the mean of the seeds' hundredths
    for words in ('0.550', '0.655', '0.855', '+0.200', '\N{MINUS SIGN}0.200', 'judge/shape'):
        assert words in page.text, words
    for words in ('Diversity', 'background', 'gaussian_kl', '2.00 GiB', '3.00', 'Only watched (out-of-domain)'):
        assert words in page.text, words
    assert page.text.count('0, 1') == 2, 'both seeds of both groups'
    assert sum(1 for n, v in page.attributes if n == 'alt' and v == 'allocation map') == 5, 'the maps that there are'


def test_groups_and_their_names(tmp_path):
    folders = [write_run(tmp_path / 'a', 'one', 1), write_run(tmp_path / 'b', 'one', 0, lr=2e-4)]
    folders += [write_run(tmp_path / 'c', 'one', 0), write_run(tmp_path / 'd', 'two')]
    groups = group_runs([read_run(folder) for folder in folders])
    assert [(g.label, g.seeds) for g in groups] == [('one (lr=0.0001)', [0, 1]), ('one (lr=0.0002)', [0]), ('two', [0])]
    assert differences(groups) == {'optim.lr': ['0.0001', '0.0002', '0.0001']}


def test_difference_is_of_common_prompts(tmp_path):
    """Prompts 4 to 11 are common; with seed 0 each of them gains 0.2 more."""
    runs = [
        read_run(write_run(tmp_path / 'a')),
        read_run(write_run(tmp_path / 'b', 'two', gain=0.3, prompts=[*PROMPTS[4:], 'another'])),
    ]
    found = compare_results(['one', 'two'], [[run.held_out] for run in runs])
    assert found.prompts == 8
    # the second run counts i from its own first prompt
    row = next(row for row in found.rows if row.measure == 'reward')
    assert row.cells[1].difference.value == pytest.approx(0.2 - 0.4)
    notes = ' | '.join(found.notes)
    assert 'different held-out prompts (9, 12): only the 8 that all have are compared' in notes
    assert 'pairs are of equal prompts, not of equal seeds' in notes
    assert 'one has one seed' in notes


def test_nothing_in_common(tmp_path):
    folders = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'two', prompts=['x', 'y'])]
    _, page = compare(tmp_path, *folders)
    assert 'no held-out prompt in common: no score is compared' in page.text
    assert '+0.' not in page.text


def test_another_reward_is_not_compared(tmp_path):
    folders = [write_run(tmp_path / 'a'), write_run(tmp_path / 'b', 'two', reward='RednessReward')]
    runs = [read_run(folder) for folder in folders]
    found = compare_results(['one', 'two'], [[run.held_out] for run in runs])
    by_name = {row.measure: row.cells[1] for row in found.rows}
    assert by_name['reward'].difference is None
    assert by_name['reward'].after is not None
    assert by_name['judge'].difference is not None
    assert any('reward is not computed alike' in note for note in found.notes)


def test_unfinished_runs_are_said_to_be(tmp_path, capsys):
    half = write_run(tmp_path / 'half', 'two', done=2, planned=9)
    with open(half / 'history.jsonl', 'a') as file:
        file.write('{"iteration": 3, "rew')  # cut off by a dying process
    begun = write_run(tmp_path / 'begun', 'three')
    (begun / 'evaluations' / 'iter_4.npz').unlink()
    _, page = compare(tmp_path, write_run(tmp_path / 'a'), half, begun)
    said = capsys.readouterr().out
    assert f'{half} stopped or still running: 2 of 9 iterations are done' in said
    for words in (
        '2 of 9 iterations',
        'iteration 2 of 9',
        'no held-out evaluation after its start',
        'three: no results yet',
    ):
        assert words in page.text, words
    (half / 'summary.json').write_text('{"iterations": 2}')  # stopped early by its own rule
    _, page = compare(tmp_path, half)
    assert 'ended by its own rule after 2 of 9 iterations' in page.text
    assert 'still running' not in page.text
    new = tmp_path / 'new'
    shutil.copytree(begun, new)
    (new / 'history.jsonl').write_text('')
    compare(tmp_path, new)


def test_wrong_folders(tmp_path, capsys):
    run = write_run(tmp_path / 'a')
    (tmp_path / 'empty').mkdir()
    for folders, words in (
        ([tmp_path / 'nowhere'], 'is no folder'),
        ([run, tmp_path / 'empty'], 'holds no history.jsonl'),
        ([run, run], 'is named 2 times'),
    ):
        compare(tmp_path, *folders, code=2)
        assert words in capsys.readouterr().err
    (run / 'evaluations' / 'iter_4.npz').write_bytes(b'PK')
    with pytest.raises(ConfigError, match=r'iter_4\.npz cannot be read'):
        read_run(run)


def test_damaged_test_results(tmp_path, four):
    (four[0] / 'test' / 'iter_4' / 'per_prompt.csv').unlink()
    with pytest.raises(ConfigError, match=r'run tools/test\.py again'):
        read_run(four[0])


@pytest.mark.slow
def test_seeds_alone_rarely_make_a_sure_difference(tmp_path):
    """Two groups of three seeds that differ by seed noise alone: about one interval in twenty may leave out zero."""
    rng = np.random.default_rng(0)
    prompts = [f'prompt {i}' for i in range(20)]

    def group():
        runs = [rng.normal(0.5, 0.05) + rng.normal(0, 0.01, len(prompts)) for _ in range(3)]
        return [HeldOutResults(prompts, {'after/reward': run}, {}) for run in runs]

    def sure(seeds):
        cells = compare_results(['one', 'two'], [group(), group()], [[0, 1, 2], seeds]).rows[0].cells
        assert all(cell.after.low < cell.after.value < cell.after.high for cell in cells)
        return cells[1].difference.low > 0 or cells[1].difference.high < 0

    for seeds in ([0, 1, 2], [3, 4, 5]):
        assert np.mean([sure(seeds) for _ in range(60)]) < 0.12


def test_a_seed_that_comes_twice_is_no_second_seed(tmp_path):
    folders = [write_run(tmp_path / name, name[0], seed=0) for name in ('a1', 'a2', 'b1', 'b2')]
    _, page = compare(tmp_path, *folders)
    assert 'a has one seed' in page.text
    assert 'b has seed 0 2 times: these runs count as one' in page.text


def test_runs_of_one_seed_count_as_one():
    """Seed 0 twice and seed 1 once: the mean of seeds is not that of runs, and one seed has no spread."""

    def group(*means):
        return [HeldOutResults(['a', 'b'], {'after/reward': np.full(2, mean)}, {}) for mean in means]

    row = compare_results(['x', 'y'], [group(0, 0, 3), group(1, 3, 3)], [[0, 0, 1], [0, 0, 1]]).rows[0]
    assert [cell.after.value for cell in row.cells] == [1.5, 2.5]
    assert row.cells[1].difference.value == 1.0
    only = compare_results(['x'], [group(0, 1)], [[0, 0]]).rows[0].cells[0].after
    assert (only.low, only.value, only.high) == (0.5, 0.5, 0.5)


def test_prompts_without_a_score_are_said_to_be_left_out(tmp_path):
    runs = [read_run(write_run(tmp_path / name, name)) for name in ('one', 'two')]
    runs[1].held_out.columns['after/reward'][3:6] = np.nan
    notes = compare_results(['one', 'two'], [[run.held_out] for run in runs]).notes
    assert [note for note in notes if 'left out' in note] == [
        'two: 3 of 12 prompts have no reward in some run; they are left out, also of differences'
    ]


def test_a_distance_without_values_is_told_too():
    columns = {'after/reward': np.zeros(4), 'after/reward/part': np.zeros(4), 'change/background': np.zeros(4)}
    columns |= {name: np.array([np.nan, 0, 0, 0]) for name in ('after/reward/part', 'change/background')}
    results = HeldOutResults(list('abcd'), columns, {})
    notes = [note for note in compare_results(['one'], [[results]]).notes if 'left out' in note]
    assert notes == [
        'one: 1 of 4 prompts have no change/background in some run; they are left out, also of differences'
    ]


def test_tests_of_different_sizes_are_said_to_be(tmp_path, four):
    for folder, count in zip(four, (4, 4, 1, 1), strict=True):
        path = folder / 'test' / 'iter_4' / 'results.json'
        body = json.loads(path.read_text())
        body['about'] |= {'samples_per_prompt': count, 'weights': 'averaged'}
        path.write_text(json.dumps(body))
    shutil.copytree(four[0] / 'test' / 'iter_4', four[0] / 'test' / 'iter_4_old')
    _, page = compare(tmp_path, *four)
    assert 'the runs were tested with different samples per prompt (4, 1)' in page.text
    assert 'different weights' not in page.text
    assert 'has tests that are not shown, since they are of no iteration: iter_4_old' in page.text


def test_a_run_that_ended_early_does_not_cut_its_group(tmp_path):
    runs = [read_run(write_run(tmp_path / f'{done}', seed=done, done=done, planned=9)) for done in (9, 2)]
    x, values = charts._curves(runs, 'reward')
    assert x.tolist() == list(range(1, 10))
    np.testing.assert_allclose(values[0], 0.5 + 0.1 * x)
    np.testing.assert_allclose(values[1], [*(0.5 + 0.1 * x[:2]), *[np.nan] * 7])
    (tmp_path / '2' / 'history.jsonl').write_text('')
    text, _ = compare(tmp_path, tmp_path / '9', tmp_path / '2')
    assert 'Reward of the rollouts by iteration' in text


def test_a_mean_is_never_of_other_runs_than_its_neighbours():
    """A run that stops because it fails must not lift its group; runs evaluated at other times must not zigzag."""
    nan = np.nan

    def lines(*values):
        _, axes = charts._figure(2, 2)
        charts._band(axes, np.arange(len(values[0])), np.array(values), 'k', 'group')
        found = [line for line in axes.lines if len(line.get_xdata())]
        return [(line.get_linestyle(), line.get_xdata().tolist(), line.get_ydata().tolist()) for line in found]

    assert lines([1.0, 1, 1, 1], [0.0, 0, nan, nan]) == [('-', [0, 1], [0.5, 0.5]), (':', [2, 3], [1.0, 1.0])]
    assert lines([1.0, 1, 1, 1, nan], [0.0, nan, 0, nan, 0]) == [('-', [0, 2], [0.5, 0.5]), (':', [4], [0.0])]
    assert lines([1.0, nan]) == [('-', [0], [1.0])]
