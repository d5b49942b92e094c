"""Configs that are broken as text, as structure, or in one value."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tests.engine.conftest import SMALL
from tests.engine.fuzz.bounds import NUMBERS
from tests.engine.fuzz.case import CONFIG, Case, World
from vipo.engine.config import read_config

_SMALL = [f'{key}={value}' for key, value in SMALL.items() if key != 'param_scheduler']
_SHIPPED = read_config(CONFIG)
_REQUIRED = ['generator', 'reward', 'loss', 'rollout', 'batch', 'train_dataloader', 'train_cfg', 'optim_wrapper']


def walk(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value, sections too."""
    if key:
        yield key, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for name, part in parts:
        yield from walk(part, f'{key}.{name}' if key else str(name))


def shipped() -> Config:
    """The shipped config."""
    return _SHIPPED


def numbers() -> list[str]:
    """Keys of all numbers in the shipped config."""
    found = walk(_SHIPPED._cfg_dict.to_dict())
    return [k for k, v in found if isinstance(v, (int, float)) and not isinstance(v, bool)]


def _sections() -> list[str]:
    return [k for k, v in walk(_SHIPPED._cfg_dict.to_dict()) if isinstance(v, dict)]


def _set(key: str, value: Any) -> str:
    """Lines of a config that replace one value."""
    return f'_base_ = [{str(CONFIG)!r}]\n' + _assign(key.split('.'), value)


def _assign(path: list[str], value: Any) -> str:
    name = path[0]
    new: Any = _text(value)
    if len(path) > 1:
        inside = _SHIPPED._cfg_dict.to_dict()[name]
        numbered = [i for i, part in enumerate(path) if part.isdigit()]
        if numbered:  # a list is replaced as a whole
            at = numbered[0]
            for part in path[1:at]:
                inside = inside[part]
            changed = list(inside)
            index = int(path[at])
            changed[index] = value if at == len(path) - 1 else {**changed[index], path[at + 1]: value}
            new, path = _text(changed), path[:at]
        for part in reversed(path[1:]):
            new = f'{{{part!r}: {new}}}'
    return f'{name} = {new}\n'


def _text(value: Any) -> str:
    if isinstance(value, float) and (value != value or value in (float('inf'), float('-inf'))):
        return f'float({str(value)!r})'
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(_text(v) for v in value)}]'
    if isinstance(value, dict):
        return f'{{{", ".join(f"{k!r}: {_text(v)}" for k, v in value.items())}}}'
    return repr(value)


def _train(rng: random.Random, world: World, config: Path, *options: str, without: str = '') -> list[str]:
    """Arguments of a small run, either in a new work dir or going on in that of the finished run."""
    section = without.split('.')[0]
    small = [x for x in _SMALL if not section or not x.startswith(f'{section}.')]
    place = ['--work-dir', str(world.room() / 'run')]
    # What the finished run was made with is compared, and a difference there would be found first.
    if section not in ('generator', 'evaluation', 'param_scheduler', 'randomness') and rng.random() < 0.3:
        place = ['--work-dir', str(world.canary), '--resume']
        small += ['generator.lora.rank=2', 'evaluation.num_prompts=2', 'param_scheduler=None']
    return [str(config), *place, '--cfg-options', *small, *options]


def _bare(world: World, config: Path) -> list[str]:
    """Arguments without options, which would lead through what is broken and say so first."""
    return [str(config), '--work-dir', str(world.room() / 'run')]


def _write(world: World, text: str | bytes, name: str = 'broken.py') -> Path:
    path = world.room() / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def number(rng: random.Random, world: World) -> Case:
    """A number that is none, of another type, or outside of what the key takes."""
    key = rng.choice(list(NUMBERS))
    value = rng.choice(NUMBERS[key].broken())
    config = _write(world, _set(key, value))
    name = key.rstrip('.0123456789').split('.')[-1]
    return Case('number', f'{key} = {value!r}', 'train', _train(rng, world, config, without=key), (name,))


def section_as_scalar(rng: random.Random, world: World) -> Case:
    """A section that is a text, a number or a list."""
    key = rng.choice([k for k in _sections() if k not in ('randomness',)])
    value = rng.choice(['text', 5, [1, 2], True, ['a', {'b': 1}]])
    config = _write(world, _set(key, value))
    name = [part for part in key.split('.') if not part.isdigit()][-1]
    return Case('section_as_scalar', f'{key} = {value!r}', 'train', _bare(world, config), (name,))


def dict_for_text(rng: random.Random, world: World) -> Case:
    """A section where a text belongs; a list or a number where a text belongs."""
    texts = [k for k, v in walk(_SHIPPED._cfg_dict.to_dict()) if isinstance(v, str)]
    key = rng.choice(texts)
    value = rng.choice([{'a': 1}, [1], 7, 1.5, ['x']])
    config = _write(world, _set(key, value))
    name = [part for part in key.split('.') if not part.isdigit()]
    where = (name[-1], *name[-2:-1]) if name[-1] == 'type' else (name[-1],)
    return Case('dict_for_text', f'{key} = {value!r}', 'train', _train(rng, world, config, without=key), (where,))


def other_for_flag(rng: random.Random, world: World) -> Case:
    """Something else where True or False belongs."""
    flags = [k for k, v in walk(_SHIPPED._cfg_dict.to_dict()) if isinstance(v, bool)]
    key = rng.choice(flags)
    value = rng.choice(['yes', 2, 0.5, {'a': 1}, [True]])
    config = _write(world, _set(key, value))
    return Case('other_for_flag', f'{key} = {value!r}', 'train', _train(rng, world, config), (key.split('.')[-1],))


def misspelt(rng: random.Random, world: World) -> Case:
    """A key in a section with two letters exchanged or one left out, where no option of that name exists."""
    found = [
        k
        for k, v in walk(_SHIPPED._cfg_dict.to_dict())
        if '.' in k and len(k.split('.')[-1]) > 3 and not k.split('.')[-1].isdigit() and '.type' not in k
    ]
    open_sections = ('eval_rewards', 'default_hooks')  # their keys are names that a user chooses
    key = rng.choice([k for k in found if k.rsplit('.', 1)[0] not in open_sections])
    start, name = key.rsplit('.', 1)
    i = rng.randrange(len(name) - 1)
    wrong = name[:i] + name[i + 1 :] if name[i] == name[i + 1] else name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    value = dict(walk(_SHIPPED._cfg_dict.to_dict()))[key]
    config = _write(world, _set(f'{start}.{wrong}', value))
    return Case('misspelt', f'{start}.{wrong}', 'train', _train(rng, world, config), (wrong, name))


def unknown_option(rng: random.Random, world: World) -> Case:
    """An option that nothing is like, in any section that is not a list of names of the user's."""
    key = rng.choice([k for k in _sections() if k not in ('eval_rewards', 'default_hooks')])
    config = _write(world, _set(f'{key}.zzqx', rng.choice([1, 'a', None, {'b': 2}])))
    return Case('unknown_option', f'{key}.zzqx', 'train', _train(rng, world, config), ('zzqx',))


def unknown_type(rng: random.Random, world: World) -> Case:
    """A type that is not registered, an empty one, a builtin, a module, or a name that cannot be imported."""
    typed = [k for k, v in walk(_SHIPPED._cfg_dict.to_dict()) if k.endswith('.type') or k == 'type']
    key = rng.choice(typed)
    value = rng.choice(['Nothing', '', 'a.b.c', 'os', 'os.path', 'vipo.rewards.nothing', '...', 'x y', 'json.decoder'])
    config = _write(world, _set(key, value))
    section = [part for part in key.split('.')[:-1] if not part.isdigit()][-1]
    return Case('unknown_type', f'{key} = {value!r}', 'train', _train(rng, world, config), (section,))


def missing_option(rng: random.Random, world: World) -> Case:
    """An option without which there is no run: no type of a component, no sizes, no files."""
    key, part = rng.choice(
        [
            ('generator', 'type'),
            ('reward', 'type'),
            ('structurer', 'type'),
            ('structurer.backbone', 'type'),
            ('structurer.allocator', 'type'),
            ('loss', 'type'),
            ('rollout', 'num_steps'),
            ('rollout', 'kernel'),
            ('rollout', 'selector'),
            ('rollout.kernel', 'eta'),
            ('rollout.kernel', 'type'),
            ('rollout.selector', 'type'),
            ('batch', 'group_size'),
            ('batch', 'prompts_per_iteration'),
            ('train_dataloader', 'dataset'),
            ('train_dataloader.dataset', 'file'),
            ('train_dataloader.dataset', 'type'),
            ('train_cfg', 'max_iters'),
            ('optim_wrapper', 'optimizer'),
            ('optim_wrapper.optimizer', 'type'),
            ('evaluation', 'prompts'),
            ('eval_rewards.judge', 'type'),
            ('param_scheduler.0', 'type'),
        ]
    )
    section = dict(walk(_SHIPPED._cfg_dict.to_dict()))[key]
    rest = {k: v for k, v in section.items() if k != part}
    config = _write(world, _set(key, {**rest, '_delete_': True} if not key.endswith('.0') else rest))
    return Case(
        'missing_option',
        f'{key} without {part}',
        'train',
        [str(config), '--work-dir', str(world.room() / 'r')],
        (part,),
    )


def missing_section(rng: random.Random, world: World) -> Case:
    """A section without which there is no run is None or empty."""
    key = rng.choice(
        ['generator', 'reward', 'loss', 'rollout', 'batch', 'train_dataloader', 'train_cfg', 'optim_wrapper']
    )
    value = rng.choice([None, '_empty_'])
    text = _set(key, {'_delete_': True} if value else None)
    config = _write(world, text)
    return Case(
        'missing_section', f'{key} = {value}', 'train', [str(config), '--work-dir', str(world.room() / 'r')], (key,)
    )


def text(rng: random.Random, world: World) -> Case:
    """A file that is no Python, no text, of another encoding, or empty."""
    whole = CONFIG.read_text().replace("'_base_/", f"'{CONFIG.parent}/_base_/")
    cut = rng.randrange(700, len(whole) - 700)
    what, content = rng.choice(
        [
            ('an open bracket', b'reward = dict(\n'),
            ('bytes', rng.randbytes(400)),
            ('zero bytes', bytes(300)),
            ('nothing', b''),
            ('comments alone', b'# nothing\n'),
            ('Latin-1', f'# caf\xe9\n{whole}'.encode('latin-1')),
            ('UTF-16', whole.encode('utf-16')),
            ('UTF-32', whole.encode('utf-32')),
            ('a stray word', f'{whole}\nthis is no python\n'.encode()),
            ('a stray quote', f"{whole[:cut]}'''{whole[cut:]}".encode()),
            ('an undefined name', f'{whole}\nreward = undefined_name\n'.encode()),
            ('a division by zero', f'{whole}\nx = 1 / 0\n'.encode()),
            ('an exit', f'{whole}\nraise SystemExit(0)\n'.encode()),
            ('deep brackets', b'x = ' + b'(' * 300 + b')' * 300),
            ('JSON', b'{"reward": 1}'),
            ('tabs and spaces', b'if True:\n\tx = 1\n        y = 2\n'),
            ('a mixed indentation', f'{whole}\n  indented = 1\n'.encode()),
        ]
    )
    config = _write(world, content)
    words = ('needs a section',) if what in ('nothing', 'comments alone', 'JSON') else (str(config),)
    return Case('text', what, rng.choice(['train', 'plan', 'train']), [str(config)], words)


def base(rng: random.Random, world: World) -> Case:
    """``_base_`` names what is not there, what is no config, or leads in a circle."""
    room = world.room()
    what = rng.choice(['missing', 'circle', 'itself', 'folder', 'number', 'none of texts', 'binary', 'clash', 'dict'])
    value: Any = {
        'missing': ['nowhere.py'],
        'circle': ['other.py'],
        'itself': ['broken.py'],
        'folder': ['.'],
        'number': 5,
        'none of texts': [1, None],
        'binary': ['binary.py'],
        'clash': [str(CONFIG), 'copy.py'],
        'dict': {'a': str(CONFIG)},
    }[what]
    (room / 'other.py').write_text("_base_ = ['broken.py']\n")
    (room / 'binary.py').write_bytes(rng.randbytes(200))
    (room / 'copy.py').write_text("reward = dict(type='HPSReward')\n")
    (room / 'broken.py').write_text(f'_base_ = {value!r}\n')
    return Case('base', what, rng.choice(['train', 'plan']), [str(room / 'broken.py')], ('broken.py',))


def suffix(rng: random.Random, world: World) -> Case:
    """A config file of another kind, or a folder."""
    what = rng.choice(['folder', 'broken.txt', 'broken', 'broken.json', 'broken.yaml', 'missing.py'])
    room = world.room()
    if what == 'folder':
        path = room
    else:
        path = room / what
        if what != 'missing.py':
            path.write_text('{"a": ' if what.endswith('json') else 'a: [1, 2')
    tool = rng.choice(['train', 'plan', 'sample', 'show_map'])
    more = ['--prompts', 'a red ball'] if tool in ('sample', 'show_map') else []
    return Case('suffix', what, tool, [str(path), *more], (str(path),))


def command_line(rng: random.Random, world: World) -> Case:
    """``--cfg-options`` with a key that no section has, through a scalar, or a value of another type."""
    option, words = rng.choice(
        [
            ("generator.lora={'rank': 'four'}", 'lora'),
            ("generator.lora={'rnak': 4}", 'rnak'),
            ('generator.lora=[1,2]', 'lora'),
            ('generator.lora=16', 'lora'),
            ('loss.mode.x=1', 'loss.mode.x'),
            ('batch.group_size.a.b=1', 'batch.group_size'),
            ('reward.0=1', '0'),
            ('reward.=1', 'reward'),
            ('.=1', '.'),
            ('=1', "''"),
            ('batch..group_size=4', 'batch..group_size'),
            ('param_scheduler.7.begin=1', 'param_scheduler.7'),
            ('param_scheduler.-1.begin=1', 'param_scheduler.-1'),
            ('optim_wrapper.optimizer.betas.5=0.1', 'betas.5'),
            ('optim_wrapper.optimizer.betas.x=0.1', 'betas.x'),
            ('batch=', 'batch'),
            ('rollout.kernel=FlowKernel', 'kernel'),
            ('structurer=yes', 'structurer'),
            ('ema=0.9', 'ema'),
            ('evaluation=yes', 'evaluation'),
            ('eval_rewards=HPSReward', 'eval_rewards'),
            ('eval_rewards.judge=SceneJudge', 'eval_rewards.judge'),
            ('default_hooks=None.x', 'default_hooks'),
            ('custom_hooks=EMAHook', 'custom_hooks'),
            ('custom_hooks=[EMAHook]', 'custom_hooks.0'),
            ('param_scheduler=LinearLR', 'param_scheduler'),
            ('visualizer=Visualizer', 'visualizer'),
            ('visualizer.vis_backends=LocalVisBackend', 'vis_backends'),
            ('log_processor=fast', 'log_processor'),
            ('log_level=5', 'log_level'),
            ('randomness=7', 'randomness'),
            ('randomness.seed=x', 'seed'),
            ('custom_imports=torch', 'custom_imports'),
            ('custom_imports.imports=[nowhere_at_all]', 'custom_imports.imports'),
            ('offload=vae', 'offload'),
            ('offload=[vae]', 'offload'),
            ('offload=5', 'offload'),
            ('strategy=DDP', 'strategy'),
            ('env_cfg=gloo', 'env_cfg'),
            ('env_cfg.dist_cfg=gloo', 'dist_cfg'),
            ('work_dir=5', 'work_dir'),
            ('load_from=5', 'load_from'),
            ('load_from=[a,b]', 'load_from'),
            ('resume=maybe', 'resume'),
            ('experiment_name=[1]', 'experiment_name'),
            ('default_scope=5', 'default_scope'),
            ('model_wrapper_cfg=DDP', 'model_wrapper_cfg'),
        ]
    )
    place = ['--work-dir', str(world.room() / 'run')]
    if option.startswith('work_dir'):
        place = []
    small = [] if option.split('=')[0] in ('batch', 'evaluation') else _SMALL
    argv = [str(CONFIG), *place, '--cfg-options', *small, option]
    return Case('command_line', option, 'train', argv, (words,))


KINDS = {
    number: 12,
    section_as_scalar: 4,
    dict_for_text: 4,
    other_for_flag: 1,
    misspelt: 3,
    unknown_option: 3,
    unknown_type: 4,
    missing_option: 2,
    missing_section: 1,
    text: 2,
    base: 1,
    suffix: 1,
    command_line: 4,
}
