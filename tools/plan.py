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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

    from vipo.engine.plan import Plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from vipo.engine.arguments import CfgOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--gpus', type=int, default=8, help='of one node')
    parser.add_argument('--nodes', type=int, default=1, help='machines; more than one also prints how the work divides')
    parser.add_argument(
        '--gpu-flops', type=float, default=350.0, metavar='TFLOPS', help='of one GPU, as it is reached in training'
    )
    parser.add_argument(
        '--gpu-bandwidth', type=float, default=200.0, metavar='GB/s', help='from a GPU to the others of its node'
    )
    parser.add_argument('--node-bandwidth', type=float, default=50.0, metavar='GB/s', help='from a node to the others')
    parser.add_argument('--gpu-memory', type=float, default=80.0, metavar='GB', help='of one GPU, in 10^9 bytes')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, metavar='KEY=VALUE')
    parser.add_argument('--json', type=Path, help='also write the figures')
    return parser.parse_args(argv)


def check_positive(args: argparse.Namespace) -> None:
    """Refuse figures that no cluster has.

    Raises:
        ConfigError: a figure is not positive.
    """
    from vipo.registry import ConfigError

    for name in ('gpus', 'nodes', 'gpu_memory', 'gpu_flops', 'gpu_bandwidth', 'node_bandwidth'):
        if not getattr(args, name) > 0:
            raise ConfigError(f'--{name.replace("_", "-")} must be positive, got {getattr(args, name):g}')


def print_scaling(cfg: Config, args: argparse.Namespace, plans: dict[str, Plan]) -> None:
    """How an iteration of the denoiser divides among 1, 2, 4, ... nodes; ``plans`` are those of all of them."""
    from vipo.engine.measure import measure_pass
    from vipo.engine.plan import STRATEGIES, make_plan, plan_batch
    from vipo.engine.scaling import Links, scaling
    from vipo.registry import GENERATORS, ConfigError

    links = Links(args.gpu_flops * 1e12, args.gpu_bandwidth * 1e9, args.node_bandwidth * 1e9)
    print(
        f'\nscaling, where a GPU computes {args.gpu_flops:g} TFLOP/s and sends {args.gpu_bandwidth:g} GB/s within its '
        f'node, and a node {args.node_bandwidth:g} GB/s (docs/multi-node.md has the formulas)\n'
        f'  {"nodes":>5s} {"GPUs":>5s} {"samples":>8s} {"compute":>9s}'
        + ''.join(f'{name.upper() + " sends":>14s} {"efficiency":>12s}' for name in STRATEGIES)
    )
    generator, costs = GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator'), {}
    for nodes in sorted({*(2**i for i in range(args.nodes.bit_length())), args.nodes}):
        gpus = nodes * args.gpus
        try:
            batch = plan_batch(cfg, gpus)
        except ConfigError as error:
            print(f'  {nodes:5d} {gpus:5d} {error}')
            continue
        size = batch.longest(batch.micro_batch_size)
        if nodes < args.nodes and size not in costs:
            costs[size] = measure_pass(generator, size, cfg.generator.get('lora'))
        columns, compute = '', 0.0
        for name in STRATEGIES:
            plan = plans[name] if nodes == args.nodes else make_plan(cfg, gpus, name, costs[size])
            share = plan.flops * batch.total / gpus / batch.samples
            found = scaling(plan.flops, share, sum(plan.traffic.values()), nodes, links)
            compute = found.compute
            between = f'{100 * found.lowest:.0f}-{100 * found.highest:.0f} %'
            columns += f'{sum(plan.traffic.values()) / 1e9:11.1f} GB {between:>12s}'
        print(f'  {nodes:5d} {gpus:5d} {batch.samples:8d} {compute:7.1f} s{columns}')
    rollout = 100 * plan.rollout_flops / plan.flops
    print(
        f'  The rollout is {rollout:.0f} % of the FLOPs, and with DDP it sends nothing. Efficiency: from nothing sent '
        'during computation to all of it'
    )


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    sys.path[:0] = [str(Path(args.config).resolve().parent), os.getcwd()]
    print('vipo: measuring the full-size model on tensors without contents (about a minute)', flush=True)
    from vipo.engine.config import override, read_config, require_sections
    from vipo.engine.measure import measure_pass
    from vipo.engine.plan import STRATEGIES, find_remedy, make_plan, plan_batch
    from vipo.engine.quiet import quiet_third_parties
    from vipo.registry import GENERATORS, ConfigError

    quiet_third_parties()
    try:
        cfg = read_config(args.config)
        override(cfg, args.cfg_options)
        check_positive(args)
        require_sections(cfg, 'generator', 'reward', 'loss', 'rollout', 'batch')
        if args.json is not None and not args.json.parent.is_dir():
            raise ConfigError(f'--json: the folder {str(args.json.parent)!r} does not exist')
        generator = GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator')
        gpus = args.gpus * args.nodes
        batch = plan_batch(cfg, gpus)
        cost = measure_pass(generator, batch.longest(batch.micro_batch_size), cfg.generator.get('lora'))
        plans = {name: make_plan(cfg, gpus, name, cost) for name in STRATEGIES}
    except ValueError as error:  # ConfigError, and what pure functions say of a wrong number
        print(f'error: {error}', file=sys.stderr)
        return 2
    for name, plan in list(plans.items())[: 2 if gpus > 1 else 1]:
        print(f'\n{name.upper()} on {gpus} GPU(s), GB per GPU')
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
        remedy = find_remedy(cfg, gpus, args.gpu_memory * 1e9, cost)
        nothing = 'no option makes it fit: it needs larger GPUs or _base_/strategies/fsdp2.py'
        print(f'it would fit with {remedy}' if remedy else nothing)
    if gpus > 1:
        print_scaling(cfg, args, plans)
    if args.json:
        figures = {
            name: {'phases': p.phases, 'counts': p.counts, 'flops': p.flops, 'bytes sent': p.traffic}
            for name, p in plans.items()
        }
        args.json.write_text(json.dumps(figures, indent=2) + '\n')
        print(f'figures in {args.json}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
