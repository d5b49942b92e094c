"""``tools/test.py`` measures what it says, on any number of processes."""

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.conftest import ROOT, run, small_config
from tests.engine.launch import fork
from tests.engine.test_launchers import call
from tools import test as tool
from vipo.engine.bench import build_bench
from vipo.engine.config import read_config
from vipo.engine.evaluation import Evaluation
from vipo.engine.results import HeldOutResults

CONFIG = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
FEW = ['--cfg-options', 'evaluation.num_steps=2', 'evaluation.num_prompts=5', 'evaluation.batch_size=2']


def length(pixels, prompts, metadata):
    """No score for the first prompt."""
    return [float('nan') if 'orange circle' in p else float(len(p)) for p in prompts]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of two iterations whose evaluations went in the test's own batches."""
    folder = tmp_path_factory.mktemp('run')
    options = {'evaluation__num_prompts': 5, 'evaluation__batch_size': 2, 'optim_wrapper__optimizer__lr': 1e-3}
    return Path(run(small_config(folder, **options)).work_dir)


@pytest.fixture(scope='module')
def tested(finished):
    """Where the test of its checkpoint lies."""
    arguments = ['--samples-per-prompt', '3', '--rewards', 'RednessReward', f'{__name__}.length', '--gallery', '3']
    assert tool.main([CONFIG, str(finished / 'iter_2.pth'), *arguments, *FEW]) == 0
    return finished / 'test' / 'iter_2'


def samples(folder):
    with open(folder / 'samples.csv', newline='') as file:
        return list(csv.DictReader(file))


def test_first_samples_are_those_of_the_run(finished, tested):
    """Bit for bit: the same seeds, the averaged weights, and a start that is the adapter-free or frozen model."""
    first = [row for row in samples(tested) if row['sample'] == '0']
    for when, number in (('before', 0), ('after', 2)):
        evaluation = Evaluation.load(finished / 'evaluations' / f'iter_{number}.npz')
        for score in ('reward', 'judge'):
            assert [float(row[f'{when}/{score}']) for row in first] == evaluation.scores[score].tolist()
    with np.load(tested / 'pictures.npz') as pictures:
        assert np.array_equal(pictures['after'], Evaluation.load(finished / 'evaluations' / 'iter_2.npz').pixels[:3])
        assert pictures['maps'].shape == (3, 16, 16)


def test_results_agree_with_the_rows(tested):
    rows = samples(tested)
    assert len(rows) == 15
    results = HeldOutResults.load(tested)
    body = json.loads((tested / 'results.json').read_text())
    assert len(results.prompts) == 5
    assert HeldOutResults.load_measures(tested) == results.measures()
    for column in ('before/reward', 'after/judge', 'change/pixels', 'change/background'):
        by_hand = [np.mean([float(r[column]) for r in rows if r['prompt_id'] == str(i)]) for i in range(5)]
        assert results.columns[column] == pytest.approx(by_hand)
    mean = results.columns['after/reward'].mean()
    measure = body['measures']['reward']
    assert measure['after']['value'] == pytest.approx(mean)
    assert measure['difference']['value'] == pytest.approx(mean - results.columns['before/reward'].mean())
    assert measure['difference']['low'] <= measure['difference']['value'] <= measure['difference']['high']
    assert np.isnan(results.columns['after/length'][0])
    assert body['without_score'] == {'before/length': 1, 'after/length': 1}
    for name in ('diversity/pixels', 'diversity/DINOv2Backbone', 'diversity/RewardTowerBackbone'):
        assert 0 < body['measures'][name]['before']['value'] < 1
    assert body['measures']['distance/gaussian_kl']['value']['value'] > 0
    assert (tested / 'gallery.png').exists()
    assert (tested / 'diversity.png').exists()


@pytest.mark.parametrize('text', ['', '{}', '[]', '{"measures": {"reward": {"value": {"value": 1}}}}'])
def test_damaged_measures_are_refused(text, tmp_path):
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(ValueError, match=r'run tools/test\.py again'):
        HeldOutResults.load_measures(tmp_path)


def test_an_untrained_checkpoint_is_at_its_start(finished, tmp_path):
    """With the weights of the start, nothing changed and no distance is left."""
    start = build_bench(read_config(CONFIG), None).generator
    saved = torch.load(finished / 'iter_2.pth', weights_only=True)
    weights = {f'denoiser.{k}': v for k, v in start.denoiser.state_dict().items()}
    torch.save({'state_dict': {k: weights[k] for k in saved['state_dict']}}, tmp_path / 'iter_0.pth')
    assert tool.main([CONFIG, str(tmp_path / 'iter_0.pth'), '--samples-per-prompt', '1', *FEW]) == 0
    columns = HeldOutResults.load(tmp_path / 'test' / 'iter_0').columns
    assert (columns['distance/velocity_mse'] == 0).all()
    assert (columns['distance/gaussian_kl'] == 0).all()
    assert (columns['change/pixels'] == 0).all()
    assert (columns['after/reward'] == columns['before/reward']).all()
    assert not any('diversity' in name for name in columns), 'one sample of a prompt has no diversity'


@pytest.mark.slow
def test_two_processes_find_what_one_finds(finished, tested, tmp_path):
    arguments = ['--samples-per-prompt', 3, '--gallery', 3, '--out', tmp_path / 'two', *FEW]
    code, said = call('dist_test.sh', 'configs/vipo_tiny_sd3.py', 2, finished / 'iter_2.pth', *arguments)
    assert code == 0, said[-3000:]
    assert said.count('Done in') == 1, 'the main process alone reports'
    one, two = HeldOutResults.load(tested), HeldOutResults.load(tmp_path / 'two')
    assert one.prompts == two.prompts
    for name, values in two.columns.items():
        assert np.array_equal(values, one.columns[name]), name


@pytest.mark.slow
def test_what_fails_on_one_rank_ends_both(tmp_path):
    """A fault that nobody foresaw: the other rank would wait for this one until the timeout."""
    (tmp_path / 'faulty.py').write_text(
        'import os\n'
        'from vipo.rewards.redness import RednessReward\n'
        'class Faulty(RednessReward):\n'
        '    def __call__(self, *arguments):\n'
        "        if os.environ['RANK'] == '1':\n"
        "            raise OSError(5, 'Input/output error')\n"
        '        return super().__call__(*arguments)\n'
    )
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\nreward = dict(_delete_=True, type='faulty.Faulty')\n"
    )
    command = ['tools/test.py', str(config), '--launcher', 'pytorch', '--out', str(tmp_path / 'out'), *map(str, FEW)]
    began = time.monotonic()
    code, said = fork(command)
    assert code != 0
    assert time.monotonic() - began < 60
    assert said.count('error: ') == 2, said[-3000:]
    assert 'rank 1 stopped in phase' in said


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vipo_wan_videoalign', 'vipo_flux_hps_lora'])
def test_clips_and_adapters_are_rehearsed(name, tmp_path, capsys):
    config = str(ROOT / 'configs' / f'{name}.py')
    assert tool.main([config, '--rehearse', '--samples-per-prompt', '2', '--out', str(tmp_path)]) == 0
    assert 'before training' in capsys.readouterr().out
    results = HeldOutResults.load(tmp_path)
    assert np.isfinite(results.columns['before/reward']).all()
    assert 'before/diversity/DINOv2Backbone' in results.columns
    assert not any(column.startswith(('after', 'change', 'distance')) for column in results.columns)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([CONFIG, 'nowhere.pth'], "checkpoint 'nowhere.pth' does not exist"),
        ([CONFIG, '--prompts', 'nowhere.txt'], 'does not exist'),
        ([CONFIG, '--rewards', 'HSPReward'], 'Did you mean'),
        ([CONFIG, '--cfg-options', 'evaluation.num_step=3'], 'evaluation'),
        ([CONFIG, '--cfg-options', 'evaluation=None'], 'name a file of prompts with --prompts'),
        (['nowhere.py'], "config file 'nowhere.py' does not exist"),
    ],
)
def test_wrong_words(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), 'nothing is left behind'


def test_checkpoint_of_another_model(finished, capsys):
    assert tool.main([CONFIG, str(finished / 'iter_2.pth'), '--cfg-options', 'generator.lora.rank=2', *FEW[1:]]) == 2
    assert 'the checkpoint does not belong to this config' in capsys.readouterr().err


def test_two_rewards_of_one_name(tmp_path, capsys):
    (tmp_path / 'judge.py').write_text("reward = dict(type='RednessReward')\n")
    assert tool.main([CONFIG, '--rewards', str(tmp_path / 'judge.py')]) == 2
    assert "another reward named 'judge'" in capsys.readouterr().err


def test_what_was_computed_stays(tmp_path, capsys, monkeypatch):
    """A reward that breaks at the fourth prompt leaves the first two on disk."""
    monkeypatch.setattr(f'{__name__}.length', breaks)
    assert tool.main([CONFIG, '--rewards', f'{__name__}.length', '--out', str(tmp_path), *FEW]) == 3
    assert 'failed on' in capsys.readouterr().err
    assert {row['prompt_id'] for row in samples(tmp_path)} == {'0', '1'}
    assert not (tmp_path / 'results.json').exists()


def breaks(pixels, prompts, metadata):
    if any('orange square' in p for p in prompts):
        raise RuntimeError('boom')
    return [0.0] * len(prompts)
