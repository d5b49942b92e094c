"""Score held-out prompts with every reward and judge, before and after training, with equal seeds.

    python tools/test.py configs/vipo_tiny_sd3.py work_dirs/vipo_tiny_sd3/iter_120.pth
    python tools/test.py CONFIG CHECKPOINT --rewards configs/_base_/rewards/clipscore.py RednessReward my.function
    python tools/test.py CONFIG --prompts prompts.txt --samples-per-prompt 8
    tools/dist_test.sh CONFIG 8 CHECKPOINT

Without a checkpoint the generator is tested as it was before training. Several samples of each prompt show whether the
policy still knows several answers (diversity), and every sample is compared with that of the same seed before training
(change, distance). Into a folder `test/NAME` beside the checkpoint go results.json, per_prompt.csv, samples.csv (which
grows while the test goes on), gallery.png, diversity.png and pictures.npz; tools/compare.py reads them there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='without it the generator as it was before training')
    parser.add_argument(
        '--rewards',
        nargs='+',
        default=[],
        metavar='NAME',
        help="further judges beside the config's own `reward` and `eval_rewards`: config files with a reward, names of "
        'rewards, dotted paths of functions. Their options: --cfg-options eval_rewards.NAME.OPTION=VALUE',
    )
    parser.add_argument('--prompts', help="a file in place of the config's evaluation.prompts; all of it is used")
    parser.add_argument('--num-prompts', type=int, help='only the first so many')
    parser.add_argument(
        '--samples-per-prompt', '--seeds', type=int, default=4, metavar='N', help='each with a seed of its own'
    )
    parser.add_argument('--features', metavar='CONFIG', help='compare pictures with the backbone of this config too')
    parser.add_argument('--raw', action='store_true', help='the weights themselves in place of their average (EMA)')
    parser.add_argument('--gallery', type=int, default=24, metavar='N', help='prompts in the gallery')
    parser.add_argument('--work-dir', type=Path, help='of the run (default: where the checkpoint lies)')
    parser.add_argument('--out', type=Path, help='folder (default: test/<checkpoint> in the work dir)')
    parser.add_argument('--device', help='default: the GPU where there is one')
    parser.add_argument('--rehearse', action='store_true', help='tiny random twins of all models: no download, no GPU')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args(argv)
    for name in ('samples_per_prompt', 'num_prompts', 'gallery'):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config file with the command line applied.

    Raises:
        ConfigError: a file is missing, or a reward's name is taken.
    """
    from vipo.engine.config import override, read_config
    from vipo.engine.rewards import add_eval_rewards
    from vipo.engine.sections import check_sections

    cfg = read_config(args.config)
    add_eval_rewards(cfg, args.rewards)
    options: dict[str, Any] = {}
    if args.prompts is not None:
        options |= {'evaluation.prompts': args.prompts, 'evaluation.num_prompts': sys.maxsize}
    if args.num_prompts is not None:
        options['evaluation.num_prompts'] = args.num_prompts
    override(cfg, options | args.cfg_options)
    check_sections(cfg)
    cfg.launcher = args.launcher
    return cfg


def folder_of(args: argparse.Namespace) -> Path:
    """Where the results go."""
    if args.out is not None:
        return args.out
    checkpoint = None if args.checkpoint is None else Path(args.checkpoint)
    if args.work_dir is not None:
        base = args.work_dir
    else:
        base = Path('work_dirs') / Path(args.config).stem if checkpoint is None else checkpoint.parent
    return base / 'test' / ('start' if checkpoint is None else checkpoint.stem)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    sys.path[:0] = [str(Path(args.config).resolve().parent), os.getcwd()]
    print('vipo: loading', flush=True)
    from mmengine.dist import is_distributed, is_main_process

    from vipo.engine.bench import build_bench
    from vipo.engine.clock import PhaseClock
    from vipo.engine.config import read_config
    from vipo.engine.hub import check_reach
    from vipo.engine.parallel import leave
    from vipo.engine.quiet import quiet_third_parties
    from vipo.engine.rehearsal import rehearsed
    from vipo.engine.results import SampleLog, write_pictures
    from vipo.engine.rewards import pick_device
    from vipo.engine.runner import init_distributed
    from vipo.engine.scoring import RunStopped
    from vipo.engine.strategies.fsdp2 import current_device
    from vipo.engine.testing import results_of, run_test
    from vipo.engine.watchdog import current_watchdog, fail, fail_unexpectedly
    from vipo.registry import ConfigError

    quiet_third_parties()
    try:
        cfg = load_config(args)
        features = None if args.features is None else read_config(args.features)
        init_distributed(cfg)
        if args.rehearse:
            folder = Path(tempfile.mkdtemp(prefix='vipo_rehearsal_'))
            cfg, features = (None if c is None else rehearsed(c, folder) for c in (cfg, features))
        check_reach(cfg)
        check_reach({} if features is None else {'structurer': features.get('structurer')})
        device = current_device() if is_distributed() else pick_device(args.device)
        bench = build_bench(cfg, args.checkpoint, not args.raw, features).to(device)
    except (ConfigError, ValueError) as error:
        return fail(str(error), 2)
    except RunStopped as error:
        return fail(str(error), 3)
    except Exception as error:
        return fail_unexpectedly(error)
    out, records, began = folder_of(args), bench.evaluation.records, time.perf_counter()
    main_process = is_main_process()
    clock = PhaseClock(enabled=main_process)
    if (watchdog := current_watchdog()) is not None:
        watchdog.clock = clock
    if main_process:
        out.mkdir(parents=True, exist_ok=True)
        print(
            f'{len(records)} prompts, {args.samples_per_prompt} samples of each'
            f'{", before and after" if bench.trained else ", before training"}; judged by {", ".join(bench.rewards)}; '
            f'compared in {", ".join([*bench.spaces, "pixels"])}'
        )
        log = SampleLog(out / 'samples.csv')

    def keep(rows: list) -> None:
        for row in rows if main_process else ():
            log.add(row.number, records[row.number]['prompt'], row.samples)

    try:
        rows = run_test(bench, args.samples_per_prompt, clock, args.gallery, keep)
        if main_process:
            results = results_of(rows, bench, args.samples_per_prompt)
            results.about |= {
                'config': args.config,
                'checkpoint': args.checkpoint,
                'weights': 'as trained' if args.raw else 'averaged where the checkpoint has an average',
                'seconds': round(time.perf_counter() - began, 1),
            }
            results.save(out)
            shown = [row.pictures for row in rows if row.pictures]
            title = f'{Path(args.config).stem}, {"before training" if args.checkpoint is None else args.checkpoint}'
            written = write_pictures(out, results.prompts[: len(shown)], shown, title)
            print('\n'.join(results.table()))
            print(
                f'Done in {results.about["seconds"]:.0f} s: results.json, per_prompt.csv, {", ".join(written)} in {out}'
            )
    except (RunStopped, ValueError) as error:
        return fail(str(error), 3)
    except KeyboardInterrupt:
        print(f'stopped; what was computed is in {out / "samples.csv"}', file=sys.stderr)
        return 130
    except Exception as error:
        return fail_unexpectedly(error)
    leave()
    return 0


if __name__ == '__main__':
    sys.exit(main())
