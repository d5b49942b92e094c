"""Write docs/options.md: every option of every part of a config, from signatures and docstrings.

    python tools/list_options.py

The test `tests/docs/test_options.py` fails where the page is not what this writes.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HEAD = """# Every option

Written by `python tools/list_options.py` from the signatures and docstrings; do not edit. [Configs](configs.md)
explains the sections that these parts stand in. An option without a default has to be given.
"""

#: What the framework fills in, and no config may name.
FILLED_IN = {
    'BatchPlan': ('world_size', 'rank'),
    'PolicyLoop': ('runner', 'dataloader'),
    'TrainableEMA': ('module',),
    'group_advantages': ('rewards', 'group', 'valid'),
    'combined_advantages': ('rewards', 'group', 'valid', 'parts', 'weights', 'maps', 'options'),
    'PromptSampler': ('dataset',),
    'add_lora': ('denoiser', 'default_targets', 'default_exclude'),
}


def sections() -> Iterator[tuple[str, list[Callable]]]:
    """Config key and what can stand under it."""
    from vipo import registry
    from vipo.advantages import combined_advantages, group_advantages
    from vipo.engine.batch import BatchPlan
    from vipo.engine.components import EvaluationOptions, RolloutOptions
    from vipo.engine.ema import TrainableEMA
    from vipo.engine.loop import PolicyLoop
    from vipo.generators.training import add_lora

    def registered(found: registry.Registry) -> list[Callable]:
        found.import_from_location()
        shipped = (found.module_dict[name] for name in sorted(found.module_dict))
        return [target for target in shipped if target.__module__.startswith('vipo.')]

    yield 'generator', registered(registry.GENERATORS)
    yield 'generator.lora', [add_lora]
    yield 'reward, eval_rewards.NAME', registered(registry.REWARDS)
    yield 'structurer', registered(registry.STRUCTURERS)
    yield 'structurer.backbone', registered(registry.BACKBONES)
    yield 'structurer.allocator', registered(registry.ALLOCATORS)
    yield 'loss', registered(registry.LOSSES)
    yield 'advantage', [group_advantages, combined_advantages]
    yield 'rollout', [RolloutOptions]
    yield 'rollout.kernel', registered(registry.KERNELS)
    yield 'rollout.selector', registered(registry.STEP_SELECTORS)
    yield 'batch', [BatchPlan]
    yield 'evaluation', [EvaluationOptions]
    yield 'ema', [TrainableEMA]
    yield 'strategy', registered(registry.STRATEGIES)
    yield 'train_dataloader.dataset', registered(registry.DATASETS)
    yield 'train_dataloader.sampler', registered(registry.DATA_SAMPLERS)
    yield 'train_cfg', [PolicyLoop]
    yield 'default_hooks.NAME, custom_hooks', registered(registry.HOOKS)


def options_of(target: Callable) -> dict[str, inspect.Parameter]:
    """The parameters that a config may name."""
    from vipo.registry.build import full_signature

    hidden = FILLED_IN.get(target.__name__, ())
    return {k: p for k, p in full_signature(target).parameters.items() if k not in hidden}


def described(target: Callable) -> dict[str, str]:
    """What the docstring of a class or function says of each of its arguments."""
    docs = inspect.cleandoc(vars(target).get('__doc__') or '') if isinstance(target, type) else inspect.getdoc(target)
    block = re.search(r'^(?:Args|Attributes):\n((?:    .*\n?|\n)*)', docs or '', re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in block[1].splitlines() if block else ():
        if head := re.match(r'    (\w+(?:, \w+)*): (.*)', line):
            names = head[1].split(', ')
            found |= dict.fromkeys(names, head[2])
        else:
            found |= {name: f'{found[name]} {line.strip()}'.strip() for name in names}
    return found


def place_of(target: Callable, name: str) -> Callable:
    """The class whose docstring describes an option; a base where the option is the same there.

    Raises:
        LookupError: none does.
    """
    for cls in getattr(target, '__mro__', [target]):
        if name in described(cls):
            theirs, ours = options_of(cls).get(name), options_of(target)[name]
            same = theirs is not None and (theirs.annotation, theirs.default) == (ours.annotation, ours.default)
            return cls if same else target
    raise LookupError(f'{target.__module__}.{target.__name__}: no docstring describes the option {name!r}')


def text_of(target: Callable, name: str) -> str:
    """The description of an option, as Markdown in one line of a table."""
    place = next(cls for cls in getattr(target, '__mro__', [target]) if name in described(cls))
    return markdown(re.sub(r':data:`([\w.]+)`', lambda role: members(role[1], place), described(place)[name]))


def members(path: str, place: Callable) -> str:
    """The names in a tuple or dict of names that a docstring refers to; of any other constant its own name."""
    module, _, constant = path.rpartition('.')
    value = getattr(importlib.import_module(module or place.__module__), constant)
    if isinstance(value, (tuple, dict)) and all(isinstance(name, str) for name in value):
        return ', '.join(f'``{name!r}``' for name in value)
    return f'``{constant}``'


def plain(text: str) -> str:
    """Docstring text with the single backticks of Markdown in place of roles and double backticks."""
    return re.sub(r':\w+:`~?(?:[\w.]+\.)?(\w+)`', r'`\1`', text).replace('``', '`')


def markdown(text: str) -> str:
    """Docstring text for a cell of a table."""
    return plain(text).replace('|', r'\|')


def table(target: Callable, names: list[str]) -> str:
    """The options of these names."""
    parameters, rows = options_of(target), ['| option | type | default | |', '| --- | --- | --- | --- |']
    for name in names:
        p = parameters[name]
        kind = '' if p.annotation is p.empty else inspect.formatannotation(p.annotation).replace(' | ', ' or ')
        kind = re.sub(r'\b(?:[a-z_]+\.)+(?=[A-Z])', '', kind)
        default = '' if p.default is p.empty else f'`{p.default!r}`'
        if default.startswith('`<factory>'):
            default = '`{}`'
        rows.append(f'| `{name}` | {kind} | {default} | {text_of(target, name)} |')
    return '\n'.join(rows)


def page() -> str:
    """The whole page."""
    parts, bases = [HEAD], {}
    for key, targets in sections():
        parts.append(f'## {key}\n')
        shared: list[Callable] = []
        for target in targets:
            first = markdown((target.__doc__ or '').strip().split('\n\n')[0].replace('\n', ' '))
            parts.append(f'### {target.__name__}\n\n{re.sub(" +", " ", first)}\n')
            places = {name: place_of(target, name) for name in options_of(target)}
            own = [name for name, place in places.items() if place is target]
            if own:
                parts.append(table(target, own) + '\n')
            others = [base for base in dict.fromkeys(places.values()) if base is not target]
            if others:
                links = ', '.join(f'[{base.__name__}](#{base.__name__.lower()})' for base in others)
                parts.append(f'{"Also the" if own else "The"} options of {links}.\n')
            elif not own:
                parts.append('No options.\n')
            for base in others:
                bases.setdefault(base, {}).update(dict.fromkeys(n for n, place in places.items() if place is base))
            shared += [base for base in others if base not in shared and base not in targets]
        for base in shared:
            if bases[base] is not None:
                parts.append(f'### {base.__name__}\n\nShared by the parts that name it.\n')
                parts.append(table(base, [n for n in options_of(base) if n in bases[base]]) + '\n')
    return '\n'.join(parts).rstrip() + '\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'options.md')
    args = parser.parse_args(argv)
    args.out.write_text(page())
    print(f'Done: look at {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
