"""``tools/score.py`` scores files as the reward scores tensors, and names what is wrong with them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from tools import score as tool
from vipo.rewards import HPSReward, RewardOutput
from vipo.visualization.samples import write_mp4

TINY = ['HPSReward', '--cfg-options', 'reward.checkpoint=vipo://tiny-hps']
CALLS = []


def brightness(pixels, prompts, metadata):
    """Mean brightness, a part for red, and no score for the prompt `skip`."""
    CALLS.append(tuple(pixels.shape))
    mean = pixels.mean((1, 2, 3, 4))
    valid = torch.tensor([p != 'skip' for p in prompts])
    if 'explode' in prompts:
        raise RuntimeError('boom')
    return RewardOutput(mean, {'red': pixels[:, 0].mean((1, 2, 3))}, valid)


def length(pixels, prompts, metadata):
    """The fps that the reward is told."""
    return [m['fps'] for m in metadata]


NAME = f'{__name__}.brightness'


@pytest.fixture
def files(tmp_path):
    """Greys of 0, 51, 102, ... in two sizes, by turns."""

    def write(count=4, suffix='.png'):
        for i in range(count):
            Image.new('RGB', (8, 6) if i % 2 else (12, 10), (51 * i,) * 3).save(tmp_path / f'{i}{suffix}')
        return [str(tmp_path / f'{i}{suffix}') for i in range(count)]

    return write


@pytest.fixture
def clips(tmp_path):
    """A clip of 9 frames at 8 a second; frame k is a grey of 20 k."""

    def write(name='a.mp4', frames=9):
        grey = np.broadcast_to(np.arange(frames, dtype=np.uint8)[None, :, None, None] * 20, (3, frames, 32, 64))
        write_mp4(grey, tmp_path / name, 8)
        return str(tmp_path / name)

    return write


def run(capsys, tmp_path, *arguments):
    CALLS.clear()
    code = tool.main([*arguments, '--out', str(tmp_path / 'out.csv')])
    said = capsys.readouterr()
    if code != 0:
        return code, said.out, said.err, None
    with open(tmp_path / 'out.csv', newline='') as file:
        return code, said.out, said.err, list(csv.DictReader(file))


def test_scores_in_the_order_of_the_files(capsys, tmp_path, files):
    """By hand: greys of 0, 0.2, 0.4, ...; two sizes, so two groups, of which one needs two batches."""
    names = files(5)
    code, out, _, rows = run(capsys, tmp_path, NAME, '--images', *names, '--prompts', 'a cat', '--batch', '2')
    assert code == 0
    assert [r['path'] for r in rows] == names
    assert [r['prompt'] for r in rows] == ['a cat'] * 5
    assert [float(r['reward']) for r in rows] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [float(r['reward/red']) for r in rows] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [r['reward valid'] for r in rows] == ['True'] * 5
    assert sorted(CALLS) == [(1, 3, 1, 10, 12), (2, 3, 1, 6, 8), (2, 3, 1, 10, 12)]
    lines = out.splitlines()
    assert lines[1].split() == ['reward', 'reward/red']
    assert lines[4].split() == [names[2], '0.4000', '0.4000']
    assert lines[7].split() == ['mean', '0.4000', '0.4000']
    assert len({len(line) for line in lines[1:8]}) == 1, 'aligned'
    assert lines[-1] == f'Done: 5 files scored; look at {tmp_path / "out.csv"}'


def test_sample_without_a_score(capsys, tmp_path, files):
    code, out, _, rows = run(capsys, tmp_path, NAME, '--images', *files(3), '--prompts', 'a cat', 'skip', 'a dog')
    assert code == 0
    assert [r['reward'] for r in rows][1] == ''
    assert [r['reward valid'] for r in rows] == ['True', 'False', 'True']
    assert 'mean' in out.splitlines()[5]
    assert out.splitlines()[5].split()[1:] == ['0.2000', '0.2000'], 'neither the score nor its part is in the mean'
    assert out.splitlines()[3].split()[1] == '-'
    assert 'reward: 1 of 3 samples have no valid score' in out


def test_pretrained_reward_scores_as_on_tensors(capsys, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), np.uint8)
    for i, picture in enumerate(levels):
        Image.fromarray(picture).save(tmp_path / f'{i}.png')
    prompts = ['a red circle', 'a blue ring', 'a green square']
    (tmp_path / 'prompts.txt').write_text('\n'.join(prompts) + '\n')
    pixels = torch.from_numpy(levels).permute(0, 3, 1, 2)[:, :, None] / 255
    wanted = HPSReward(checkpoint='vipo://tiny-hps')(pixels, prompts).scores
    given = ['--images', str(tmp_path), '--prompts', str(tmp_path / 'prompts.txt')]
    code, _, _, rows = run(capsys, tmp_path, TINY[0], *given, *TINY[1:])
    assert code == 0
    assert [float(r['reward']) for r in rows] == wanted.tolist()


def test_config_with_and_without_its_evaluation_rewards(capsys, tmp_path):
    for i in range(2):
        Image.new('RGB', (64, 64), (200, 30, 30)).save(tmp_path / f'{i}.png')
    config = tmp_path / 'mine.py'
    config.write_text(
        "reward = dict(type='HPSReward', checkpoint='vipo://tiny-hps')\n"
        f"eval_rewards = dict(judge=dict(type='SceneJudge'), light=dict(type='FunctionReward', function='{NAME}'))\n"
    )
    prompt = 'a small red circle at the left on a plain gray background'
    given = [str(config), '--images', str(tmp_path), '--prompts', prompt]
    code, _, _, rows = run(capsys, tmp_path, *given)
    assert code == 0
    assert list(rows[0]) == ['path', 'prompt', 'reward', 'reward valid']
    code, _, _, rows = run(capsys, tmp_path, *given, '--eval')
    assert code == 0
    assert {'judge', 'judge valid', 'judge/all', 'light', 'light/red'} <= set(rows[0])
    assert float(rows[1]['judge/shape']) == 0
    assert float(rows[1]['light']) == pytest.approx((200 + 30 + 30) / 3 / 255)


def test_table_of_paths_and_prompts(capsys, tmp_path, files):
    files(3)
    (tmp_path / 'pairs.csv').write_text('path,prompt\n2.png,a dog\n0.png,"a cat, red"\n')
    code, _, _, rows = run(capsys, tmp_path, NAME, '--images', '--prompts', str(tmp_path / 'pairs.csv'))
    assert code == 0
    assert [(r['path'], r['prompt'], float(r['reward'])) for r in rows] == [
        (str(tmp_path / '2.png'), 'a dog', pytest.approx(0.4)),
        (str(tmp_path / '0.png'), 'a cat, red', 0.0),
    ]


@pytest.mark.parametrize(
    ('options', 'frames', 'mean', 'fps'),
    [
        ([], 9, 80, 8),
        (['--frames', '3'], 3, 80, 2),
        (['--frames', '2'], 2, 80, 1),
        (['--frames', '1'], 1, 80, 8),
        (['--frames', '99'], 9, 80, 8),
        (['--fps', '24'], 9, 80, 24),
        (['--frames', '3', '--fps', '24'], 3, 80, 24),
    ],
)
def test_clips(capsys, tmp_path, clips, options, frames, mean, fps):
    """Where frames are left out, those that stay are that much further apart in time."""
    given = ['--videos', clips(), '--prompts', 'a cat', *options]
    code, _, _, rows = run(capsys, tmp_path, NAME, *given)
    assert code == 0
    assert [(1, 3, frames, 32, 64)] == CALLS
    assert float(rows[0]['reward']) * 255 == pytest.approx(mean, abs=5)
    code, _, _, rows = run(capsys, tmp_path, f'{__name__}.length', *given)
    assert float(rows[0]['reward']) == pytest.approx(fps)


def test_failing_sample_is_named_by_its_file(capsys, tmp_path, files):
    names = files(5)
    prompts = ['a', 'b', 'explode', 'd', 'e']
    code, _, err, _ = run(capsys, tmp_path, NAME, '--images', *names, '--prompts', *prompts)
    assert code == 3
    assert err.strip().startswith(f'error: {names[2]}: reward (FunctionReward) failed')
    assert 'RuntimeError: boom' in err
    assert not (tmp_path / 'out.csv').exists()


def test_long_table_is_cut_and_the_file_is_not(capsys, tmp_path, files, monkeypatch):
    monkeypatch.setattr(tool, 'ROWS', 2)
    code, out, _, rows = run(capsys, tmp_path, NAME, '--images', *files(5), '--prompts', 'a cat')
    assert code == 0
    assert len(rows) == 5
    assert out.splitlines()[4] == '... and 3 more'
    assert out.splitlines()[5].split() == ['mean', '0.4000', '0.4000']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([NAME, '--images', '{0}', '{1}', '--prompts', 'a', 'b', 'c'], ['2 files but 3 prompts']),
        ([NAME, '--images', 'nowhere.png', '--prompts', 'a'], ["'nowhere.png' does not exist"]),
        ([NAME, '--images', '{bad}', '--prompts', 'a'], ['bad.png cannot be read as a picture']),
        ([NAME, '--videos', '{bad}', '--prompts', 'a'], ['bad.png cannot be read as a clip']),
        ([NAME, '--images', '{0}', '--prompts', 'nowhere.txt'], ["'nowhere.txt' does not exist"]),
        ([NAME, '--images', '--prompts', 'a'], ['no files are given']),
        ([NAME, '--images', '{0}', '--prompts', 'a', '--device', 'gpu'], ['--device gpu']),
        (['HSPReward', '--images', '{0}', '--prompts', 'a'], ["Did you mean 'HPSReward'"]),
        (['nowhere.py', '--images', '{0}', '--prompts', 'a'], ["'nowhere.py' does not exist"]),
        (['configs/_base_/policy.py', '--images', '{0}', '--prompts', 'a'], ['has no section reward']),
        ([f'{__name__}.brihtness', '--images', '{0}', '--prompts', 'a'], ["Did you mean 'brightness'"]),
        ([*TINY, 'checkpoint=x', '--images', '{0}', '--prompts', 'a'], ["'checkpoint' is not known", 'reward.OPTION']),
        ([*TINY, 'reward.versio=x', '--images', '{0}', '--prompts', 'a'], ["Did you mean 'version'"]),
    ],
    ids=range(13),
)
def test_mistakes_show_before_anything_is_scored(capsys, tmp_path, files, monkeypatch, arguments, words):
    names = files(2)
    (tmp_path / 'bad.png').write_bytes((tmp_path / '0.png').read_bytes()[:40])
    given = [a.format(*names, bad=tmp_path / 'bad.png') for a in arguments]
    if not any('HPS' in a or '_base_' in a for a in arguments):
        # Files are looked at before the reward is even looked up.
        monkeypatch.setattr('vipo.rewards.function.FunctionReward.__init__', None)
    code, _, err, _ = run(capsys, tmp_path, *given)
    assert code == 2
    assert 'Traceback' not in err
    for word in words:
        assert word in err


def test_folder_of_the_result_must_exist(capsys, tmp_path, files):
    assert tool.main([NAME, '--images', *files(1), '--prompts', 'a', '--out', str(tmp_path / 'no' / 'x.csv')]) == 2
    assert '--out: the folder' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments',
    [
        ['--images', 'a.png', '--videos', 'a.mp4'],
        [],
        ['--images', 'a.png', '--fps', '8'],
        ['--videos', 'a.mp4', '--frames', '0'],
        ['--images', 'a.png', '--batch', '0'],
    ],
)
def test_arguments_that_do_not_go_together(capsys, arguments):
    with pytest.raises(SystemExit) as raised:
        tool.main([NAME, *arguments, '--prompts', 'a'])
    assert raised.value.code == 2
