"""Turn a checkpoint into something that plain diffusers loads.

    python tools/export.py work_dirs/vipo_flux_hps_lora/iter_300.pth exported

writes ``pytorch_lora_weights.safetensors`` for a run with LoRA, or a ``transformer/`` folder for a run that trained all
weights, and a model card beside it. The averaged weights are taken where the run kept them, as its evaluation does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('out', type=Path, help='a new folder')
    parser.add_argument('--config', help='default: the config that the run left beside the checkpoint')
    parser.add_argument('--raw', action='store_true', help='the weights themselves in place of their average')
    return parser.parse_args(argv)


def _map_of(cfg: Config) -> str:
    structurer = cfg.get('structurer')
    return 'none' if structurer is None else str((structurer.get('allocator') or structurer).get('type'))


def card(cfg: Config, checkpoint: Path, generator: Any, averaged: bool) -> str:
    """The model card: what it is, how it was made, how to load it."""
    from vipo.assets import SCHEME

    base = cfg.generator.get('pretrained', 'the default of its generator')
    pipeline = getattr(generator, 'pipeline_class', 'DiffusionPipeline')
    lora = cfg.generator.get('lora') is not None
    local = base.count('/') != 1 or Path(base).exists()
    header = [
        '---',
        *([] if local else [f'base_model: {base}']),
        'library_name: diffusers',
        'tags: [vipo, grpo]',
        '---',
    ]
    place = f'resolve({base!r})' if base.startswith(SCHEME) else repr(base)
    use = [f'from diffusers import {pipeline}', '', f'pipe = {pipeline}.from_pretrained({place})']
    parts = list(getattr(generator, '_networks', {'transformer': None}))
    if lora:
        use.append("pipe.load_lora_weights('path/to/this/folder')")
        second = "pipe.load_lora_weights('path/to/this/folder/{}', load_into_transformer_2=True)"
        use += [second.format(part) for part in parts if part != 'transformer']
    else:
        kind = type(generator.pipe.transformer).__name__
        use[0] = f'from diffusers import {kind}, {pipeline}'
        loaded = [f"{part} = {kind}.from_pretrained('path/to/this/folder/{part}')" for part in parts]
        given = ', '.join(f'{part}={part}' for part in parts)
        use[-1:] = [*loaded, f'pipe = {pipeline}.from_pretrained({place}, {given})']
    if place != repr(base):
        use.insert(1, 'from vipo.assets import resolve')
    rows = [
        f'- trained: {"LoRA adapters" if lora else "all weights"} of `{base}`',
        f'- reward: `{cfg.reward.get("type")}`',
        f'- map: `{_map_of(cfg)}`',
        f'- weights: {"averaged (EMA)" if averaged else "as trained"}, from `{checkpoint.name}`',
    ]
    summary = checkpoint.parent / 'summary.json'
    if summary.exists():
        values = json.loads(summary.read_text())
        if 'gain' in values:
            rows.append(
                f'- held-out reward {values["reward_before"]:.4f} -> {values["reward_after"]:.4f}, gain '
                f'{values["gain"]:+.2f} std (95 % interval {values["gain_low"]:+.2f} to {values["gain_high"]:+.2f}), '
                f'seed {values["seed"]}, at the end of the run'
            )
    code = ['```python', *use, '```']
    lines = [*header, '', '# Post-trained with ViPO', '', *rows, '', *code, '', 'The config:', '']
    return '\n'.join([*lines, '```python', cfg.pretty_text.strip(), '```', ''])


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    from vipo.engine.checkpoint import load_tensors_only
    from vipo.engine.config import read_config, require_sections
    from vipo.engine.quiet import quiet_third_parties
    from vipo.engine.restore import config_of, load_generator
    from vipo.registry import ConfigError

    quiet_third_parties()
    beside = Path(args.config).parent if args.config else args.checkpoint.parent
    sys.path[:0] = [str(beside.resolve()), os.getcwd()]  # where a component of somebody's own may lie
    try:
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise ConfigError(f'{args.out} is in use; name a new folder')
        if (above := next(p for p in args.out.absolute().parents if p.exists())) and not above.is_dir():
            raise ConfigError(f'{args.out} cannot be made: {above} is a file')
        averaged = not args.raw and 'ema' in load_tensors_only(str(args.checkpoint), 'cpu', mmap=True)
        cfg = read_config(args.config) if args.config else config_of(args.checkpoint)
        require_sections(cfg, 'generator', 'reward')
        generator = load_generator(cfg, args.checkpoint, averaged)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    generator.save_pretrained(args.out)
    (args.out / 'README.md').write_text(card(cfg, args.checkpoint, generator, averaged))
    written = ', '.join(sorted(str(p.relative_to(args.out)) for p in args.out.rglob('*') if p.is_file()))
    print(f'Done: {written} in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
