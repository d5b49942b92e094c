"""Command lines and variables of launchers that make no sense."""

from __future__ import annotations

import random

from PIL import Image

from tests.engine.conftest import SMALL
from tests.engine.fuzz.case import CONFIG, Case, World

_SMALL = [f'{key}={value}' for key, value in SMALL.items()]


def environment(rng: random.Random, world: World) -> Case:
    """Variables of a launcher that are missing, no numbers, or contradict each other."""
    env = {'RANK': '0', 'WORLD_SIZE': '1', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29511'}
    name = rng.choice(['RANK', 'WORLD_SIZE', 'MASTER_PORT', 'MASTER_ADDR'])
    value = rng.choice(
        {
            'RANK': ['x', '-1', '1', '1.5', '', '0x0'],
            'WORLD_SIZE': ['x', '0', '-2', '', '1e3'],
            'MASTER_PORT': ['x', '-5', '70000', '', '1.5'],
            'MASTER_ADDR': ['', 'two words', 'http://127.0.0.1'],
        }[name]
    )
    launcher = rng.choice(['pytorch', 'slurm', 'pytorch', 'mpi'])
    argv = [str(CONFIG), '--work-dir', str(world.room() / 'run'), '--launcher', launcher, '--cfg-options', *_SMALL]
    what = f'{launcher}: {name}={value!r}'
    return Case('environment', what, 'train', argv, (name,), env={**env, name: value})


def numbers(rng: random.Random, world: World) -> Case:
    """A number on a tool's command line that is none, not positive, or not finite."""
    room = world.room()
    Image.new('RGB', (32, 32)).save(room / 'a.png')
    out = ['--out', str(room / 'out')]
    tools: dict[str, tuple[list[str], list[str]]] = {
        'plan': (
            [str(CONFIG)],
            ['gpus', 'nodes', 'gpu-memory', 'gpu-flops', 'gpu-bandwidth', 'node-bandwidth'],
        ),
        'score': (['SceneJudge', '--images', str(room / 'a.png'), '--prompts', 'a', *out], ['batch']),
        'sample': ([str(CONFIG), '--prompts', 'a', *out], ['steps', 'batch', 'fps']),
        'show_map': ([str(CONFIG), '--images', str(room / 'a.png'), *out], ['frames', 'limit']),
        'gallery': ([str(world.canary), *out], ['columns', 'side']),
    }
    tool = rng.choice(sorted(tools))
    argv, options = tools[tool]
    option = rng.choice(options)
    value = rng.choice(['0', '-1', '-100000', 'x', '', 'nan', '1e', '0x10'])
    return Case('numbers', f'{tool} --{option} {value!r}', tool, [*argv, f'--{option}={value}'], (option,))


def arguments(rng: random.Random, world: World) -> Case:
    """Arguments of tools that name what is not there, contradict each other or do not match."""
    room = world.room()
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (32, 32)).save(room / name)
    (room / 'full').mkdir()
    (room / 'full' / 'x').touch()
    two = [str(room / 'a.png'), str(room / 'b.png')]
    out = str(room / 'out')
    checkpoint = str(world.checkpoint)
    tool, argv, words = rng.choice(
        [
            ('score', ['SceneJudg', '--images', two[0], '--prompts', 'a', '--out', out], 'SceneJudge'),
            ('score', ['os.path', '--images', two[0], '--prompts', 'a', '--out', out], 'os.path'),
            ('score', ['SceneJudge', '--images', *two, '--prompts', 'a', 'b', 'c', '--out', out], '3 prompts'),
            ('score', ['SceneJudge', '--images', two[0], two[0], '--prompts', 'a', '--out', out], 'given twice'),
            ('score', ['SceneJudge', '--images', '--prompts', 'a', '--out', out], 'no files'),
            ('score', ['SceneJudge', '--prompts', 'a'], '--images'),
            ('score', ['SceneJudge', '--images', two[0], '--prompts', 'a', '--device', 'gpu7'], 'gpu7'),
            ('score', ['SceneJudge', '--images', two[0], '--prompts', 'a', '--out', f'{room}/no/x.csv'], '--out'),
            ('score', ['SceneJudge', '--images', two[0], '--prompts', 'a', '--out', str(room / 'full')], 'full'),
            ('score', ['SceneJudge', '--images', two[0], '--prompts', 'a', '--cfg-options', 'rewrd.x=1'], 'rewrd'),
            ('show_map', [str(CONFIG), '--images', two[0], '--texts', 'a', 'b', '--out', out], '--texts'),
            ('show_map', [str(CONFIG), '--images', two[0], '--stride', '0', '0', '--out', out], 'stride'),
            ('show_map', [str(CONFIG), '--images', two[0], '--stride', '1', '-8', '--out', out], 'stride'),
            ('show_map', [str(CONFIG), '--images', two[0], '--out', two[1]], 'b.png'),
            ('show_map', [str(CONFIG), '--images', two[0], '--device', 'x', '--out', out], '--device'),
            ('sample', [str(CONFIG), '--prompts', 'a', '--out', two[1]], 'b.png'),
            ('sample', [str(CONFIG), '--prompts', '', '--out', out], 'prompt'),
            ('sample', [str(CONFIG), '--prompts', 'a', '--seeds', 'x', '--out', out], '--seeds'),
            ('sample', [str(CONFIG), 'nowhere.pth', '--prompts', 'a', '--out', out], 'nowhere.pth'),
            ('sample', [str(CONFIG), checkpoint, '--prompts', 'a', '--out', out], 'does not belong'),
            ('export', [checkpoint, str(room / 'full')], 'in use'),
            ('export', [checkpoint, two[0]], 'in use'),
            ('export', [checkpoint, f'{two[0]}/x'], 'a.png'),
            ('export', [checkpoint, out, '--config', 'nowhere.py'], 'nowhere.py'),
            ('export', [checkpoint, out, '--config', str(CONFIG)], 'does not belong'),
            ('export', [str(room / 'no.pth'), out], 'no.pth'),
            ('gallery', [str(room)], str(room)),
            ('gallery', [str(room / 'no')], 'no'),
            ('verify_checkpoint', [str(room)], str(room)),
            ('verify_checkpoint', [str(room / 'no.pth')], 'no.pth'),
            ('plan', [str(CONFIG), '--cfg-options', 'batch.group_size=1'], 'group_size'),
            ('plan', [str(CONFIG), '--json', f'{room}/no/x.json'], 'json'),
            ('train', [str(CONFIG), '--seed', 'x'], '--seed'),
            ('train', [str(CONFIG), '--seed', '-1', '--work-dir', out], 'seed'),
            ('train', [str(CONFIG), '--launcher', 'ssh'], '--launcher'),
            ('train', [str(CONFIG), '--work-dir', out, '--cfg-options', 'loss'], 'loss'),
            ('train', [str(CONFIG), '--work-dir', out, '--cfg-options', 'loss.mode=[a,b'], 'loss.mode'),
            ('train', [str(CONFIG), '--rehearse', '--work-dir', str(room / 'full')], 'not empty'),
        ]
    )
    return Case('arguments', ' '.join([tool, *argv[1:]]), tool, argv, (words,), codes=(1, 2, 3))


KINDS = {environment: 2, numbers: 3, arguments: 4}
