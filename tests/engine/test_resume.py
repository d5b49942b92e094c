"""Resume continues exactly, and a death while writing costs nothing that was written."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.conftest import ROOT, history, run, small_config, weights
from tools.train import load_config, parse_args
from vipo.engine.checkpoint import find_latest, saved_checkpoints, write_atomically
from vipo.engine.runner import build_runner
from vipo.registry import ConfigError


class Stop(Hook):
    """Ends the run after an iteration, as a user's Ctrl-C would."""

    priority = 'LOWEST'

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


def options(**more):
    schedule = [{'type': 'LinearLR', 'start_factor': 0.2, 'begin': 0, 'end': 3, 'by_epoch': False}]
    return {
        'train_cfg__max_iters': 4,
        'default_hooks__checkpoint__interval': 2,
        'default_hooks__checkpoint__keep': 5,
        'param_scheduler': schedule,
        **more,
    }


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    return run(small_config(tmp_path_factory.mktemp('whole'), **options()))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_resume_is_bit_identical(tmp_path, undisturbed):
    first = build_runner(small_config(tmp_path, **options()))
    first.register_hook(Stop(after=2))
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = run(small_config(tmp_path, **options(resume=True)))
    assert same(weights(second), weights(undisturbed))
    assert same(second.components.ema.average, undisturbed.components.ema.average)
    ours, theirs = history(second), history(undisturbed)
    assert len(ours) == len(theirs) == 4


@pytest.mark.slow
def test_kill_while_writing_a_checkpoint_loses_nothing(tmp_path, undisturbed):
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        import vipo.engine.checkpoint as checkpoint
        from tests.engine.conftest import run, small_config
        from tests.engine.test_resume import options

        whole = checkpoint.write_atomically

        def dying(path, write):
            def half(temporary):
                write(temporary)
                data = temporary.read_bytes()
                temporary.write_bytes(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            whole(path, half if path.name == 'iter_4.pth' else write)

        checkpoint.write_atomically = dying
        run(small_config(Path({str(tmp_path)!r}), **options()))
    """
    process = subprocess.run([sys.executable, '-c', textwrap.dedent(script)], cwd=ROOT, capture_output=True)
    assert process.returncode == -9, process.stderr.decode()[-2000:]
    assert find_latest(tmp_path) == str(tmp_path / 'iter_2.pth')
    assert list(tmp_path.glob('.*.partial'))
    torch.load(tmp_path / 'iter_2.pth', weights_only=True)
    resumed = run(small_config(tmp_path, **options(resume=True)))
    assert same(weights(resumed), weights(undisturbed))
    assert not list(tmp_path.glob('.*.partial'))


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    runner = run(small_config(tmp_path, resume=True, train_cfg__max_iters=1))
    assert runner.iter == 1


def test_old_checkpoints_are_removed(tmp_path):
    run(
        small_config(
            tmp_path,
            train_cfg__max_iters=3,
            default_hooks__checkpoint__interval=1,
            default_hooks__checkpoint__keep=2,
        )
    )
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['iter_2.pth', 'iter_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_3.pth')


@pytest.mark.parametrize('ema', [None, {'decay': 0.9}])
def test_checkpoint_of_another_model_is_refused(tmp_path, undisturbed, ema):
    path = f'{undisturbed.work_dir}/iter_4.pth'
    with pytest.raises(ValueError, match='does not belong to this config'):
        run(small_config(tmp_path, load_from=path, generator__lora__rank=4, ema=ema))


@pytest.mark.slow
def test_adapters_of_another_rank_are_refused(tmp_path):
    short = {'train_cfg__max_iters': 1, 'ema': None, 'evaluation': None}
    run(small_config(tmp_path / 'eight', generator__lora__rank=8, **short))
    with pytest.raises(ValueError, match=r'62 tensors have another shape.*\(8, 128\) in the checkpoint, \(4, 128\)'):
        run(small_config(tmp_path / 'four', load_from=f'{tmp_path}/eight/iter_1.pth', generator__lora__rank=4, **short))


def test_fresh_run_in_a_used_work_dir_is_refused(undisturbed):
    with pytest.raises(ConfigError, match=r'iter_4\.pth.*--resume.*--work-dir'):
        build_runner(small_config(Path(undisturbed.work_dir), **options()))
    assert find_latest(undisturbed.work_dir).endswith('iter_4.pth')


def test_file_of_another_name_is_no_checkpoint(tmp_path):
    for name in ('iter_3.pth', 'iter_20.pth', 'iter_99_best.pth', 'iter_x.pth'):
        (tmp_path / name).touch()
    assert [p.name for p in saved_checkpoints(tmp_path)] == ['iter_3.pth', 'iter_20.pth']


def test_going_back_sets_later_checkpoints_aside(tmp_path, undisturbed):
    folder = tmp_path / 'copy'
    shutil.copytree(undisturbed.work_dir, folder)
    again = run(small_config(folder, **options(resume=True, load_from=str(folder / 'iter_2.pth'))))
    assert same(weights(again), weights(undisturbed))
    assert sorted(p.name for p in folder.glob('*.pth')) == ['iter_2.pth', 'iter_4.pth', 'iter_4.set_aside_0.pth']


def test_resume_with_another_seed_is_refused_and_the_command_adopts_the_seed(tmp_path, undisturbed):
    with pytest.raises(ConfigError, match=r'made with seed 0, this run has seed 5.*--seed 0'):
        build_runner(small_config(Path(undisturbed.work_dir), **options(resume=True, randomness__seed=5)))
    config = ROOT / 'configs' / 'vipo_tiny_sd3.py'
    arguments = [str(config), '--work-dir', undisturbed.work_dir, '--resume']
    torch.save({'meta': {'seed': 7}}, tmp_path / 'iter_1.pth')
    assert load_config(parse_args(arguments)).randomness.seed == 0
    assert load_config(parse_args([*arguments[:2], str(tmp_path), '--resume'])).randomness.seed == 7
    assert load_config(parse_args([*arguments[:2], str(tmp_path), '--resume', '--seed', '3'])).randomness.seed == 3


def test_resume_into_another_work_dir_keeps_the_comparison_to_the_start(tmp_path, undisturbed):
    point = f'{undisturbed.work_dir}/iter_2.pth'
    run(small_config(tmp_path / 'new', **options(resume=True, load_from=point)))
    ours, theirs = (json.loads(Path(f, 'summary.json').read_text()) for f in (tmp_path / 'new', undisturbed.work_dir))
    assert ours['reward_before'] == theirs['reward_before']
    assert ours['gain'] == theirs['gain']


def test_resume_with_another_evaluation_is_refused(tmp_path, undisturbed):
    more = {'resume': True, 'load_from': f'{undisturbed.work_dir}/iter_2.pth', 'evaluation__num_prompts': 5}
    with pytest.raises(ConfigError, match='measured with another evaluation than'):
        run(small_config(tmp_path, **options(**more)))


def test_resume_without_the_first_evaluation_ends_without_a_gain(tmp_path, undisturbed):
    shutil.copy(f'{undisturbed.work_dir}/iter_2.pth', tmp_path)
    run(small_config(tmp_path, **options(resume=True)))
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert 'reward_after' in summary
    assert not {'gain', 'reward_before'} & set(summary)
    assert not (tmp_path / 'before_after.png').exists()


def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')

    def fail(temporary: Path):
        temporary.write_text('half')
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_atomically(path, fail)
    assert path.read_text() == 'old'
