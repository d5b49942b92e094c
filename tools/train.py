"""Train a generator from a config file.

python tools/train.py configs/vipo_tiny_sd3.py
python tools/train.py CONFIG --resume
python tools/train.py CONFIG --rehearse
python tools/train.py CONFIG --cfg-options rollout.num_steps=8 loss.clip_range=0.1
"""

from __future__ import annotations

import time

START = time.perf_counter()

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

# A custom component beside the config, or in the folder you start from, can be imported.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent), os.getcwd()]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments that users of OpenMMLab's tools expect."""
    from vipo.engine.arguments import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where everything is written (default: work_dirs/<config name>)')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CKPT', help='go on from CKPT, or from the newest in the work dir'
    )
    parser.add_argument('--seed', type=int, help='replaces randomness.seed of the config')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help='replace single config values'
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='who starts the processes; for torchrun --nproc_per_node=N tools/train.py CONFIG it is pytorch',
    )
    parser.add_argument(
        '--rehearse',
        action='store_true',
        help='run the whole life of the config now, on tiny random twins of its models: no download, no GPU',
    )
    parser.add_argument('--verbose-ranks', action='store_true', help='say at the start where each process runs')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def load_config(args: argparse.Namespace) -> Config:
    """The config file with the command line applied; explicit flags win over ``--cfg-options``."""
    from vipo.engine.config import override, read_config
    from vipo.engine.start import seed_to_adopt

    sys.path.insert(0, str(Path(args.config).resolve().parent))
    cfg = read_config(args.config)
    override(cfg, args.cfg_options or {})
    if args.seed is not None:
        override(cfg, {'randomness.seed': args.seed})
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        # What is resumed goes on with its own seed.
        if args.seed is None and (seed := seed_to_adopt(cfg)) is not None:
            override(cfg, {'randomness.seed': seed})
    return cfg


def rehearse(cfg: Config, work_dir: str | None) -> int:
    """Run the config's whole life on tiny twins, and say what was exercised."""
    import tempfile

    from vipo.engine.clock import since_start
    from vipo.engine.rehearsal import describe_rehearsal, run_rehearsal
    from vipo.engine.scoring import RunStopped
    from vipo.registry import ConfigError

    folder = Path(tempfile.mkdtemp(prefix='vipo_rehearsal_')) if work_dir is None else Path(work_dir)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f'{folder} is not empty; a rehearsal writes into a new folder')
    try:
        rows = run_rehearsal(cfg, folder)
    except RunStopped as error:
        print(f'error: {error}', file=sys.stderr)
        return 3
    print(describe_rehearsal(rows, since_start()))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run; a mistake in the config ends in one clear line and exit code 2, a run that cannot go on in 3, and one that a
    signal stopped after saving in 75."""
    args = parse_args(argv)
    if not Path(args.config).is_file():  # before the slow imports
        print(f'error: config file {args.config!r} does not exist', file=sys.stderr)
        return 2
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    # Third-party noise at import time that no user can act on.
    warnings.filterwarnings('ignore', category=DeprecationWarning)
    print('vipo: loading', flush=True)

    from vipo.engine.clock import begin
    from vipo.registry import ConfigError

    begin(START)
    try:
        cfg = load_config(args)
        from vipo.engine.config import unknown_keys

        for warning in unknown_keys(cfg):
            print(f'warning: {warning}', file=sys.stderr)
        if args.rehearse:
            return rehearse(cfg, args.work_dir)
    except (ConfigError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    from vipo.engine.preemption import listening

    with listening():
        return train(cfg, args.verbose_ranks)


def train(cfg: Config, verbose_ranks: bool) -> int:
    """Build the run and train; the exit code. Where there are several processes, a failing one ends here."""
    from vipo.engine.files import describe_failure, is_full
    from vipo.engine.hub import check_reach
    from vipo.engine.parallel import leave
    from vipo.engine.preemption import PREEMPTED, Preempted
    from vipo.engine.runner import build_runner, describe
    from vipo.engine.scoring import RunStopped
    from vipo.engine.watchdog import current_watchdog, end_now, fail, fail_unexpectedly
    from vipo.registry import ConfigError

    try:
        check_reach(cfg)
        runner = build_runner(cfg)
        runner.logger.info(describe(runner, verbose_ranks))
    except (ConfigError, ValueError) as error:
        return fail(str(error), 2)
    except RunStopped as error:
        return fail(str(error), 3)
    except Exception as error:
        return fail_unexpectedly(error)
    try:
        runner.train()
    except (RunStopped, ConfigError) as error:
        return fail(str(error), 3)
    except OSError as error:
        if not is_full(error):
            return fail_unexpectedly(error)
        path = Path(error.filename or runner.work_dir)
        return fail(f'{describe_failure(path, error)}. Make room, and add --resume', 3)
    except KeyboardInterrupt:
        runner.clock.clear()
        print(
            f'stopped in iteration {runner.iter + 1}; add --resume to go on from the last checkpoint', file=sys.stderr
        )
        if current_watchdog() is not None:
            end_now(130)
        return 130
    except Preempted as stopped:
        runner.clock.clear()
        runner.logger.info(str(stopped))
        leave()
        return PREEMPTED
    except Exception as error:
        return fail_unexpectedly(error)
    leave()
    return 0


if __name__ == '__main__':
    sys.exit(main())
