"""Checkpoints that are damaged, incomplete, another's, or no checkpoints; work dirs that cannot be used."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.engine.fuzz.case import CONFIG, SMALL_RUN, Case, World
from tests.rewards.conftest import Bomb


def _use(rng: random.Random, world: World, path: Path, kind: str, what: str, *words: Any, all_of_it: bool) -> Case:
    """One of the tools that read a checkpoint.

    Args:
        all_of_it: whether the damage is in a part that only a resuming run needs.
    """
    other = str(world.room() / 'other')
    small = ['--cfg-options', *SMALL_RUN]
    resume = [str(CONFIG), '--work-dir', str(path.parent), '--resume', *small]
    calls: dict[str, tuple[str, list[str]]] = {
        'resume': ('train', resume),
        'resume path': ('train', [str(CONFIG), '--work-dir', other, '--resume', str(path), *small]),
    }
    if kind not in ('training_state', 'weights'):  # those it does not judge
        calls['verify'] = ('verify_checkpoint', [str(path)])
    if not all_of_it:
        calls |= {
            'load_from': ('train', [str(CONFIG), '--work-dir', other, *small, f'load_from={path}']),
            'export': ('export', [str(path), other]),
            'test': ('test', [str(CONFIG), str(path), '--out', other, *small]),
            'sample': ('sample', [str(path.parent / CONFIG.name), str(path), '--prompts', 'a ball', '--out', other]),
        }
    name = rng.choice(sorted(calls))
    if name == 'resume' and not path.is_file():
        name = 'resume path'
    tool, argv = calls[name]
    codes = (1, 2) if tool == 'verify_checkpoint' else (2, 3)
    return Case(kind, f'{what}, {name}', tool, argv, (*words,), codes=codes)


def damaged(rng: random.Random, world: World) -> Case:
    """Bytes that are not those that were written: cut off, flipped, appended, emptied. Without its sha256 a flip is
    made inside a record, where the archive's checksum sees it; elsewhere it may change nothing."""
    run = world.copy_of_run()
    path = run / 'iter_1.pth'
    data = bytearray(path.read_bytes())
    bare = rng.random() < 0.5
    what = rng.choice(
        ['cut', 'cut early', 'flip', 'empty', 'zeros', 'half of it zeros', 'noise', 'appended', 'swapped']
    )
    if bare:
        (run / 'iter_1.pth.sha256').unlink()
        what = 'cut' if what in ('appended', 'swapped', 'half of it zeros') else what
    if what == 'cut':
        data = data[: rng.randrange(1, len(data))]
    elif what == 'cut early':
        data = data[: rng.randrange(1, 200)]
    elif what == 'flip':
        place = rng.randrange(len(data))
        if bare:
            with zipfile.ZipFile(path) as archive:
                record = max(archive.infolist(), key=lambda r: (r.file_size, r.filename))
            start = data.find(record.filename.encode()) + len(record.filename) + 64
            place = start + rng.randrange(record.file_size - 128)
        data[place] ^= 1 << rng.randrange(8)
    elif what == 'appended':
        data += rng.randbytes(10)
    elif what == 'swapped':
        data[1000:1100], data[2000:2100] = data[2000:2100], data[1000:1100]
        data[1500] ^= 1
    else:
        half = len(data) // 2
        data = {
            'empty': b'',
            'zeros': bytes(len(data)),
            'half of it zeros': data[:half] + bytes(len(data) - half),
            'noise': rng.randbytes(len(data)),
        }[what]
    path.write_bytes(data)
    return _use(rng, world, path, 'damaged', f'{what}{", no sha256" if bare else ""}', str(path), all_of_it=False)


def manifest(rng: random.Random, world: World) -> Case:
    """A sha256 file that holds another digest, none, or is a folder."""
    run = world.copy_of_run()
    path = run / 'iter_1.pth'
    file = run / 'iter_1.pth.sha256'
    what = rng.choice(['other digest', 'empty', 'noise', 'text', 'folder'])
    if what == 'folder':
        file.unlink()
        file.mkdir()
    else:
        content = {
            'other digest': b'0' * 64 + b'  iter_1.pth\n',
            'empty': b'',
            'noise': rng.randbytes(90),
            'text': b'x',
        }
        file.write_bytes(content[what])
    return _use(rng, world, path, 'manifest', what, 'iter_1.pth', all_of_it=False)


def no_checkpoint(rng: random.Random, world: World) -> Case:
    """A file of another kind under the name of a checkpoint: code, a list, a tensor, a text, a folder, nothing."""
    run = world.copy_of_run()
    path = run / 'iter_1.pth'
    path.unlink()
    (run / 'iter_1.pth.sha256').unlink()
    bomb = Bomb(world.folder / 'canary' / 'boom')
    makers: dict[str, Callable[[], object]] = {
        'code': lambda: torch.save({**world.content(), 'extra': bomb}, path),
        'old code': lambda: torch.save({'a': bomb}, path, _use_new_zipfile_serialization=False),
        'code in the optimizer': lambda: torch.save({**world.content(), 'optimizer': bomb}, path),
        'list': lambda: torch.save([1, 2], path),
        'tensor': lambda: torch.save(torch.zeros(3), path),
        'bare state dict': lambda: torch.save(world.content()['state_dict'], path),
        'text': lambda: path.write_text('this is no checkpoint'),
        'archive of a text': lambda: zipfile.ZipFile(path, 'w').writestr('a.txt', 'x'),
        'folder': path.mkdir,
        'nothing': lambda: None,
    }
    what = rng.choice(sorted(makers))
    makers[what]()
    return _use(rng, world, path, 'no_checkpoint', what, str(path), all_of_it=False)


def weights(rng: random.Random, world: World) -> Case:
    """Weights that are not those of the model: other names, shapes or kinds, too few or too many."""
    content = world.content()
    state = content['state_dict']
    names = sorted(state)
    name = rng.choice(names)
    broken: dict[str, Any] = {
        'one missing': {k: v for k, v in state.items() if k != name},
        'one too many': {**state, 'extra.weight': torch.zeros(2)},
        'another shape': {**state, name: torch.zeros(3, 5)},
        'renamed': {f'x.{k}': v for k, v in state.items()},
        'a number': {**state, name: 5},
        'None': {**state, name: None},
        'empty': {},
        'a list': list(state.values()),
        'a text': 'weights',
        'absent': None,
        'a scalar tensor': {**state, name: torch.tensor(1.0)},
        'numbered': dict(enumerate(state.values())),
        'complex': {**state, name: torch.zeros(state[name].shape, dtype=torch.complex64)},
    }
    what = rng.choice(sorted(broken))
    content['state_dict'] = broken[what]
    if isinstance(broken[what], dict) and rng.random() < 0.5:
        content['ema'] = broken[what]  # so that both agree
    path = _save(world, content)
    return _use(rng, world, path, 'weights', what, ('checkpoint', name), all_of_it=False)


def average(rng: random.Random, world: World) -> Case:
    """Averaged weights of other names, shapes or kinds than the weights."""
    content = world.content()
    ema = content['ema']
    name = rng.choice(sorted(ema))
    broken: dict[str, Any] = {
        'one missing': {k: v for k, v in ema.items() if k != name},
        'another shape': {**ema, name: torch.zeros(3, 5)},
        'a number': {**ema, name: 5},
        'a list': list(ema.values()),
        'None': None,
    }
    what = rng.choice(sorted(broken))
    content['ema'] = broken[what]
    return _use(rng, world, _save(world, content), 'average', what, 'checkpoint', all_of_it=False)


def training_state(rng: random.Random, world: World) -> Case:
    """What only a resuming run reads: optimizer, schedulers, counters. Of another kind, or of another model."""
    content = world.content()
    optimizer = content['optimizer']
    group, state = optimizer['param_groups'][0], optimizer['state']
    first = next(iter(state))
    moments = state[first]
    changes: dict[str, tuple[str, Any]] = {
        'no optimizer': ('optimizer', None),
        'optimizer a list': ('optimizer', [1]),
        'no param_groups': ('optimizer', {'state': state}),
        'param_groups a number': ('optimizer', {**optimizer, 'param_groups': 5}),
        'param_groups of numbers': ('optimizer', {**optimizer, 'param_groups': [5]}),
        'param_groups empty': ('optimizer', {**optimizer, 'param_groups': []}),
        'a group without params': ('optimizer', {**optimizer, 'param_groups': [{'lr': 1.0}]}),
        'too few params': ('optimizer', {'state': {}, 'param_groups': [{**group, 'params': group['params'][:-1]}]}),
        'two groups': ('optimizer', {**optimizer, 'param_groups': [group, group]}),
        'state a list': ('optimizer', {**optimizer, 'state': [1]}),
        'moments a number': ('optimizer', {**optimizer, 'state': {**state, first: 5}}),
        'moments of another shape': (
            'optimizer',
            {**optimizer, 'state': {**state, first: {**moments, 'exp_avg': torch.zeros(3, 5)}}},
        ),
        'no moments': ('optimizer', {**optimizer, 'state': {**state, first: {}}}),
        'a text as learning rate': ('optimizer', {**optimizer, 'param_groups': [{**group, 'lr': 'fast'}]}),
        'no meta': ('meta', None),
        'meta a number': ('meta', 5),
        'no iteration': ('meta', {k: v for k, v in content['meta'].items() if k != 'iter'}),
        'another iteration': ('meta', {**content['meta'], 'iter': 7}),
        'iteration a text': ('meta', {**content['meta'], 'iter': '1'}),
        'iteration True': ('meta', {**content['meta'], 'iter': True}),
        'negative epoch': ('meta', {**content['meta'], 'epoch': 'x'}),
        'seed a text': ('meta', {**content['meta'], 'seed': 'x'}),
        'another seed': ('meta', {**content['meta'], 'seed': 2**40}),
        'no message_hub': ('message_hub', None),
        'message_hub empty': ('message_hub', {}),
        'message_hub of numbers': ('message_hub', {'log_scalars': 5, 'runtime_info': 5, 'resumed_keys': 5}),
        'schedulers a number': ('param_schedulers', 5),
        'schedulers of numbers': ('param_schedulers', [5]),
        'too many schedulers': ('param_schedulers', content['param_schedulers'] + [{'last_step': 3}]),
        'a scheduler of texts': ('param_schedulers', [{'last_step': 'x', 'begin': None}]),
    }
    what = rng.choice(sorted(changes))
    part, value = changes[what]
    content[part] = value
    path = _save(world, content)
    return _use(rng, world, path, 'training_state', what, ('checkpoint', str(path)), all_of_it=True)


def work_dir(rng: random.Random, world: World) -> Case:
    """A work dir that is a file, below a file, has an impossible name, or holds another run."""
    room = world.room()
    (room / 'file').touch()
    what, argv, words = rng.choice(
        [
            ('a file', ['--work-dir', str(room / 'file')], 'is a file'),
            ('below a file', ['--work-dir', str(room / 'file' / 'run')], str(room / 'file')),
            ('a long name', ['--work-dir', str(room / ('x' * 300))], 'xxx'),
            ('a zero byte', ['--work-dir', f'{room}/a\0b'], 'work'),
            ("another's", ['--work-dir', str(world.canary)], 'canary'),
            ('another seed', ['--work-dir', str(world.canary), '--resume', '--seed', '5'], 'seed 0'),
            ('another model', ['--work-dir', str(world.canary), '--resume'], 'does not belong'),
            ('resume nothing', ['--work-dir', str(room / 'new'), '--resume', str(room / 'none.pth')], 'none.pth'),
            ('resume a folder', ['--work-dir', str(room / 'new'), '--resume', str(world.canary)], 'canary'),
            ('resume an address', ['--resume', 's3://a/b.pth', '--work-dir', str(room / 'n')], 's3://a/b.pth'),
        ]
    )
    options = [o for o in SMALL_RUN if what != 'another model' or 'lora' not in o]
    options = [*options, 'generator.lora.rank=3'] if what == 'another model' else options
    return Case('work_dir', what, 'train', [str(CONFIG), *argv, '--cfg-options', *options], (words,))


def beside(rng: random.Random, world: World) -> Case:
    """A finished run in which the config, an evaluation or the history beside the checkpoint is broken."""
    run = world.copy_of_run()
    path = run / 'iter_1.pth'
    config = run / CONFIG.name
    what = rng.choice(
        ['no config', 'two configs', 'broken config', 'empty config', 'evaluation noise', 'evaluation empty', 'history']
    )
    resume = [str(CONFIG), '--work-dir', str(run), '--resume', '--cfg-options', *SMALL_RUN]
    evaluation = run / 'evaluations' / 'iter_0.npz'
    if 'config' in what:
        if what == 'no config':
            config.unlink()
        elif what == 'two configs':
            (run / 'second.py').write_text('a = 1')
        else:
            config.write_text('' if what == 'empty config' else 'x = (')
        words = '--config' if what in ('no config', 'two configs') else ('generator', str(config))
        return Case('beside', what, 'export', [str(path), str(world.room() / 'out')], (words,))
    if what == 'history':
        (run / 'history.jsonl').write_text('{"iteration": 1\nnothing\n')
        return Case('beside', what, 'train', resume, ('history.jsonl',))
    evaluation.write_bytes(b'' if what == 'evaluation empty' else rng.randbytes(500))
    gallery = ['gallery', [str(run), '--out', str(world.room() / 'x.png')]]
    tool, argv = rng.choice([gallery, ['train', resume]])
    return Case('beside', f'{what}, {tool}', tool, argv, ('iter_0.npz',))


def _save(world: World, content: dict[str, Any]) -> Path:
    path = world.copy_of_run() / 'iter_1.pth'
    torch.save({k: v for k, v in content.items() if v is not None or k == 'ema'}, path)
    path.with_name('iter_1.pth.sha256').unlink()
    return path


KINDS = {damaged: 5, manifest: 1, no_checkpoint: 2, weights: 4, average: 2, training_state: 5, work_dir: 2, beside: 2}
