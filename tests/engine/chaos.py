"""Kills random ranks at random moments and starts them again, until the run is through; then compares.

    python -m tests.engine.chaos FOLDER --kills 200 --seed 1 --strategy fsdp2

The processes of a run are forked from this one, which has imported everything already, so that a start takes about
two seconds; what runs in them is ``tools/train.py``. Every moment follows from the seed: a phase, and a time within it
or, while a checkpoint is written, a system call. The run that was killed again and again must end with the very weights
and optimiser of one that was left alone, and every file that looks like a checkpoint must be one at any time.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from tests.engine.conftest import ROOT, SMALL
from tests.engine.forks import import_all, run_ranks
from tests.engine.launch import train_command
from vipo.engine.checkpoint import load_tensors_only, saved_checkpoints
from vipo.engine.verify import inspect

RANKS = 2
ITERATIONS = 10
#: Where a rank dies, and for how long (seconds) that phase lasts here at most.
PHASES = {'rollout': 0.3, 'update': 0.3, 'writing': 0.05, 'checkpoint': 0.0}
#: Calls of os.fsync, os.replace and os.unlink while a checkpoint is written and old ones are removed.
CALLS = 7
OPTIONS = {
    **SMALL,
    'train_cfg.max_iters': ITERATIONS,
    # three samples of a group of six here, the others there
    'batch.prompts_per_iteration': 1,
    'batch.group_size': 6,
    'batch.updates_per_iteration': 1,
    'batch.micro_batch_size': 3,
    'evaluation': None,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.keep': 2,
}


class Chaos(Hook):
    """Kills this process if it is the one: ``rank``, in ``iteration``, in ``phase``.

    Args:
        delay: seconds after the start of a rollout, of an update or of the writing of a checkpoint.
        call: which system call of a checkpoint, where that is the phase.
    """

    # Before the hook that writes checkpoints.
    priority = 'HIGH'

    def __init__(self, rank: int, iteration: int, phase: str, delay: float, call: int) -> None:
        self.rank, self.iteration, self.phase = rank, iteration, phase
        self.delay, self.call = delay, call

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._start('rollout', runner)

    def after_reward(self, runner: Any, samples: Any) -> None:
        self._start('update', runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._start('writing', runner)
        if not self._due('checkpoint', runner):
            return
        if get_rank() != 0:  # writes nothing
            die()
        calls = iter(range(self.call + 1))

        def counted(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if next(calls, None) == self.call:
                    die()
                return original(*args, **kwargs)

            return call

        for name in ('fsync', 'replace', 'unlink'):
            setattr(os, name, counted(getattr(os, name)))

    def _due(self, phase: str, runner: Any) -> bool:
        return (self.phase, self.rank, self.iteration) == (phase, get_rank(), runner.iter)

    def _start(self, phase: str, runner: Any) -> None:
        if self._due(phase, runner):
            timer = threading.Timer(self.delay, die)
            timer.daemon = True
            timer.start()


def die() -> None:
    """As ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_config(folder: Path, strategy: str, victim: dict[str, Any] | None) -> Path:
    """The small main job, in which one rank will die."""
    hooks = [] if victim is None else [{'type': 'tests.engine.chaos.Chaos', **victim}]
    path = folder / 'config.py'
    path.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py', '{ROOT}/configs/_base_/strategies/{strategy}.py']\n"
        f'custom_hooks = {hooks!r}\n'
    )
    return path


def run_once(folder: Path, config: Path, work_dir: Path) -> list[int]:
    """Start all ranks and wait, as a launcher does that ends the others soon; their wait statuses.

    Raises:
        TimeoutError: they hang.
    """
    command = train_command(config, '--work-dir', str(work_dir), '--resume', options=OPTIONS)
    return run_ranks(command, [folder / f'rank_{rank}.log' for rank in range(RANKS)], grace=1.0)


def check_files(work_dir: Path) -> int:
    """Load everything that has a checkpoint's name; the newest iteration, 0 where there is none."""
    newest = 0
    for path in saved_checkpoints(work_dir):
        assert inspect(path).problem is None, path
        done = load_tensors_only(str(path))['message_hub']['runtime_info']['iter']
        newest = int(path.stem.removeprefix('iter_'))
        assert done + 1 == newest, f'{path} holds iteration {done + 1}'
    return newest


def assert_equal(one: Any, two: Any, where: str) -> None:
    """Tensors bit for bit, everything else by ``==``."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f'{where}.{key}')
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_equal(a, b, f'{where}.{i}')
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where


def torment(folder: Path, kills: int, seed: int, strategy: str) -> None:
    """All of it.

    Raises:
        AssertionError: a kill changed the outcome, or damaged a file.
        TimeoutError: the ranks hang.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone, tormented = folder / 'left_alone', folder / 'tormented'
    status = run_once(folder, write_config(folder, strategy, None), alone)
    assert status == [0] * RANKS, f'the undisturbed run failed: look at {folder}/rank_*.log'
    moments = random.Random(seed)
    reached, done = 0, 0
    while done < kills:
        if reached == ITERATIONS:  # through, but not killed often enough: the last ones once more
            for path in saved_checkpoints(tormented)[1:]:
                path.unlink()
            reached = check_files(tormented)
        phase = moments.choice(list(PHASES))
        victim = {
            'rank': moments.randrange(RANKS),
            'iteration': min(reached + moments.randrange(2), ITERATIONS - 1),
            'phase': phase,
            'delay': round(moments.uniform(0, PHASES[phase]), 3),
            'call': moments.randrange(CALLS),
        }
        status = run_once(folder, write_config(folder, strategy, victim), tormented)
        killed = os.WIFSIGNALED(status[victim['rank']]) and os.WTERMSIG(status[victim['rank']]) == signal.SIGKILL
        reached = check_files(tormented)
        done += killed
        outcome = f'killed, {reached} of {ITERATIONS} iterations are saved' if killed else 'it was faster'
        at = f'call {victim["call"]}' if phase == 'checkpoint' else f'{victim["delay"]:.3f} s'
        print(
            f'{done:3d}/{kills} rank {victim["rank"]} in {phase} {victim["iteration"] + 1} ({at}): {outcome}',
            flush=True,
        )
    assert run_once(folder, write_config(folder, strategy, None), tormented) == [0] * RANKS
    one, two = (load_tensors_only(str(path / f'iter_{ITERATIONS}.pth')) for path in (alone, tormented))
    for part in ('state_dict', 'ema', 'optimizer'):
        assert_equal(one[part], two[part], part)
    leftovers = list(tormented.glob('.*.partial'))
    assert not leftovers, leftovers
    print(f'{done} kills, and the very weights of the run that was left alone')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--strategy', choices=('ddp', 'fsdp2'), default='ddp')
    args = parser.parse_args()
    torch.set_num_threads(1)
    import_all()
    os.chdir(ROOT)
    torment(args.folder.resolve(), args.kills, args.seed, args.strategy)


if __name__ == '__main__':
    main()
