"""Resume continues exactly, and a death while writing costs nothing that was written."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.conftest import ROOT, history, run, small_config, weights
from vipo.engine.checkpoint import find_latest, write_atomically
from vipo.engine.runner import build_runner


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


def test_checkpoint_of_another_model_is_refused(tmp_path, undisturbed):
    path = f'{undisturbed.work_dir}/iter_4.pth'
    with pytest.raises(ValueError, match='does not belong to this config'):
        run(small_config(tmp_path, load_from=path, generator__lora__rank=4))


def test_write_atomically_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')

    def fail(temporary: Path):
        temporary.write_text('half')
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_atomically(path, fail)
    assert path.read_text() == 'old'
