"""Say before you rent what a config takes: memory per GPU and phase, passes and FLOPs per iteration, does it fit.

    python tools/plan.py configs/vipo_flux_hps.py --gpus 8 --gpu-memory 80

Nothing is downloaded and no GPU is needed: the full-size model is built without weights, and its passes run on tensors
without contents.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--gpus', type=int, default=8)
    parser.add_argument('--gpu-memory', type=float, default=80.0, metavar='GB', help='of one GPU, in 10^9 bytes')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE')
    parser.add_argument('--json', type=Path, help='also write the figures')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.config).resolve().parent), os.getcwd()]
    print('vipo: measuring the full-size model on tensors without contents (about a minute)', flush=True)
    from vipo.engine.config import override, read_config
    from vipo.engine.measure import measure_pass
    from vipo.engine.plan import STRATEGIES, find_remedy, make_plan, plan_batch
    from vipo.engine.quiet import quiet_third_parties
    from vipo.registry import GENERATORS

    quiet_third_parties()
    try:
        cfg = read_config(args.config)
        override(cfg, args.cfg_options)
        generator = GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator')
        cost = measure_pass(generator, plan_batch(cfg, args.gpus).micro_batch_size, cfg.generator.get('lora'))
        plans = {name: make_plan(cfg, args.gpus, name, cost) for name in STRATEGIES}
    except ValueError as error:  # ConfigError, and what pure functions say of a wrong number
        print(f'error: {error}', file=sys.stderr)
        return 2
    for name, plan in list(plans.items())[: 2 if args.gpus > 1 else 1]:
        print(f'\n{name.upper()} on {args.gpus} GPU(s), GB per GPU')
        parts = list(dict.fromkeys(p for phase in plan.phases.values() for p in phase))
        print(f'  {"":26s}' + ''.join(f'{phase:>22s}' for phase in plan.phases))
        for part in parts:
            sizes = [phase.get(part, 0) / 1e9 for phase in plan.phases.values()]
            if any(sizes):
                print(f'  {part:26s}' + ''.join(f'{size:22.2f}' for size in sizes))
        print(f'  {"sum":26s}' + ''.join(f'{sum(phase.values()) / 1e9:22.2f}' for phase in plan.phases.values()))
        verdict = 'fits' if plan.peak <= args.gpu_memory * 1e9 else 'does NOT fit'
        print(f'  peak {plan.peak / 1e9:.1f} GB with 2 GiB for what is no tensor: {verdict} in {args.gpu_memory:g} GB')
    plan = plans['ddp']
    print('\nper iteration and GPU: ' + ', '.join(f'{count:,} {name}' for name, count in plan.counts.items() if count))
    print(f'{plan.flops / 1e15:.2f} PFLOP of the denoiser')
    kept = {name: f'{size / 1e9:.2f} GB' for name, size in plan.activations.items()}
    print(f'activations of the update: {kept["with"]} with gradient checkpointing, {kept["without"]} without')
    for note in plan.notes:
        print(f'note: {note}')
    if plan.peak > args.gpu_memory * 1e9:
        remedy = find_remedy(cfg, args.gpus, args.gpu_memory * 1e9)
        nothing = 'no option makes it fit: it needs larger GPUs or _base_/strategies/fsdp2.py'
        print(f'it would fit with {remedy}' if remedy else nothing)
    if args.json:
        figures = {name: {'phases': p.phases, 'counts': p.counts, 'flops': p.flops} for name, p in plans.items()}
        args.json.write_text(json.dumps(figures, indent=2) + '\n')
        print(f'figures in {args.json}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
