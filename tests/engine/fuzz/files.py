"""Prompt files, model folders and pictures that are broken."""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.engine.conftest import SMALL
from tests.engine.fuzz.case import CONFIG, Case, World
from vipo.assets import resolve

_SMALL = [f'{key}={value}' for key, value in SMALL.items()]


def prompts(rng: random.Random, world: World) -> Case:
    """A prompt file that is missing, of another encoding, or has a line without a prompt."""
    room = world.room()
    good = 'a red ball\na blue ball\n'
    texts: dict[str, bytes] = {
        'empty': b'',
        'blank': b'\n\n\n',
        'a blank line': b'a red ball\n   \na blue ball\n',
        'noise': bytes([0xFF]) + rng.randbytes(300),
        'zero bytes': bytes(50),
        'zero byte in a line': b'a red\0 ball\n',
        'Latin-1': 'a caf\xe9\n'.encode('latin-1'),
        'UTF-16': good.encode('utf-16'),
        'UTF-32': good.encode('utf-32'),
    }
    lines: dict[str, str] = {
        'no prompt': '{"text": "a"}',
        'a number': '{"prompt": 5}',
        'None': '{"prompt": null}',
        'a list': '{"prompt": ["a"]}',
        'an empty prompt': '{"prompt": "  "}',
        'bare text': 'a red ball',
        'a JSON list': '["a red ball"]',
        'a JSON text': '"a red ball"',
        'cut off': '{"prompt": "a red',
        'two objects': '{"prompt": "a"} {"prompt": "b"}',
        'single quotes': "{'prompt': 'a'}",
        'deep': '[' * 100000,
    }
    what = rng.choice([*texts, *lines, 'missing', 'folder'])
    if what in texts:
        path = room / rng.choice(
            ['broken.txt', 'broken.jsonl'] if what not in ('zero byte in a line',) else ['broken.txt']
        )
        path.write_bytes(texts[what])
    elif what in lines:
        path = room / 'broken.jsonl'
        path.write_text(f'{{"prompt": "a red ball"}}\n{lines[what]}\n')
    else:
        path = room / 'broken.txt'
        if what == 'folder':
            path.mkdir()
    picture = room / 'a.png'
    Image.new('RGB', (32, 32)).save(picture)
    run = [str(CONFIG), '--work-dir', str(room / 'run'), '--cfg-options', *_SMALL]
    out = ['--out', str(room / 'out')]
    tool, argv = rng.choice(
        [
            ('train', [*run, f'train_dataloader.dataset.file={path}']),
            ('train', [*run, f'evaluation.prompts={path}']),
            ('sample', [str(CONFIG), '--prompts', str(path), *out]),
            ('score', ['SceneJudge', '--images', str(picture), '--prompts', str(path), *out]),
            ('show_map', [str(CONFIG), '--prompts', str(path), *out]),
        ]
    )
    return Case('prompts', f'{what}, {path.name}', tool, argv, (path.name,))


def table(rng: random.Random, world: World) -> Case:
    """A CSV of prompts that has no prompt, other numbers of columns, files that are missing, or is none."""
    room = world.room()
    Image.new('RGB', (32, 32)).save(room / 'a.png')
    what, content = rng.choice(
        [
            ('no column', b'text,path\na,a.png\n'),
            ('too few columns', b'prompt,path\na\n'),
            ('too many columns', b'prompt,path\na,a.png,5\n'),
            ('an empty prompt', b'prompt,path\n,a.png\n'),
            ('an empty path', b'prompt,path\na,\nb,a.png\n'),
            ('a missing file', b'prompt,path\na,b.png\n'),
            ('a file twice', b'prompt,path\na,a.png\nb,./a.png\n'),
            ('no rows', b'prompt,path\n'),
            ('empty', b''),
            ('noise', b'\xff' + rng.randbytes(200)),
            ('an open quote', b'prompt,path\n"a,a.png\n'),
            ('zero bytes', bytes(40)),
        ]
    )
    (room / 'broken.csv').write_bytes(content)
    argv = ['SceneJudge', '--images', '--prompts', str(room / 'broken.csv'), '--out', str(room / 'out.csv')]
    return Case('table', what, 'score', argv, (('broken.csv', 'b.png'),))


#: How a file of weights is broken for every loader, and for one that accounts for every name.
_SPOILT = ('missing', 'empty', 'cut', 'cut header', 'noise', 'length', 'text', 'folder')
_OTHER_NAMES = ('key missing', 'key added', 'shape')


def _spoil_weights(rng: random.Random, file: Path, hows: tuple[str, ...] = _SPOILT + _OTHER_NAMES) -> str:
    """Break a safetensors file, and say how."""
    data = file.read_bytes()
    state = load_file(file)
    what = rng.choice(hows)
    name = rng.choice(sorted(state))
    if what in ('missing', 'folder'):
        file.unlink()
        if what == 'folder':
            file.mkdir()
    elif what in ('key missing', 'key added', 'shape'):
        changed = {
            'key missing': {k: v for k, v in state.items() if k != name},
            'key added': {**state, 'nothing.weight': torch.zeros(3)},
            'shape': {**state, name: torch.zeros(3, 5, 7)},
        }[what]
        save_file(changed, file, metadata={'format': 'pt'})
    else:
        file.write_bytes(
            {
                'empty': b'',
                'cut': data[: rng.randrange(len(data) // 2, len(data) - 1)],
                'cut header': data[: rng.randrange(1, 100)],
                'noise': rng.randbytes(3000),
                'length': struct.pack('<Q', 2**60) + data[8:],
                'text': b'this is no model',
            }[what]
        )
    return what


def _spoil_json(rng: random.Random, file: Path) -> str:
    what = rng.choice(['missing', 'empty', 'cut', 'noise', 'a list', 'a number', 'an empty object'])
    text = file.read_bytes()
    if what == 'missing':
        file.unlink()
    else:
        file.write_bytes(
            {
                'empty': b'',
                'cut': text[: len(text) // 2],
                'noise': b'\xff' + rng.randbytes(100),
                'a list': b'[1, 2]',
                'a number': b'5',
                'an empty object': b'{}',
            }[what]
        )
    return what


def generator_folder(rng: random.Random, world: World) -> Case:
    """A diffusers folder in which a file of weights, a config or a tokenizer is broken."""
    folder = Path(shutil.copytree(resolve('vipo://tiny-sd3'), world.room() / 'model'))
    if rng.random() < 0.5:
        file = rng.choice(sorted(folder.rglob('*.safetensors')))
        # A text encoder may be a part of a larger checkpoint.
        strict = not file.parent.name.startswith('text_encoder')
        what = _spoil_weights(rng, file, _SPOILT + (_OTHER_NAMES if strict else ('key missing', 'shape')))
    else:
        file = rng.choice(sorted(f for f in folder.rglob('*.json') if f.name != 'tokenizer_config.json'))
        what = _spoil_json(rng, file)
    options = [f'generator.pretrained={folder}']
    tool, argv = rng.choice(
        [
            ('train', [str(CONFIG), '--work-dir', str(world.room() / 'run'), '--cfg-options', *_SMALL, *options]),
            ('sample', [str(CONFIG), '--prompts', 'a', '--out', str(world.room()), '--cfg-options', *options]),
        ]
    )
    words = (('generator', str(folder), file.name),)
    return Case('generator_folder', f'{file.relative_to(folder)} {what}', tool, argv, words)


def judge_folder(rng: random.Random, world: World) -> Case:
    """A folder of the reward or of the backbone in which weights, a config or the tokenizer is broken."""
    asset, key = rng.choice([('tiny-hps', 'reward.checkpoint'), ('tiny-dinov2', 'structurer.backbone.pretrained')])
    folder = Path(shutil.copytree(resolve(f'vipo://{asset}'), world.room() / 'model'))
    optional = ('tokenizer_config.json',)
    file = rng.choice(sorted(f for f in folder.iterdir() if f.name not in optional))
    if file.suffix == '.safetensors':
        # A backbone may be a part of a larger checkpoint.
        strict = asset == 'tiny-hps'
        what = _spoil_weights(rng, file, _SPOILT + (_OTHER_NAMES if strict else ('key missing', 'shape')))
    else:
        what = _spoil_json(rng, file)
    option = f'{key}={folder}'
    room = world.room()
    Image.new('RGB', (32, 32)).save(room / 'a.png')
    if asset == 'tiny-hps':
        words: Any = ('reward', str(folder))
        other = ['HPSReward', '--images', str(room / 'a.png'), '--prompts', 'a', '--out', str(room / 'o.csv')]
        other_tool = 'score'
    else:
        words = ('structurer.backbone', str(folder))
        other = [str(CONFIG), '--images', str(room / 'a.png'), '--out', str(room / 'maps')]
        other_tool = 'show_map'
    small = [str(CONFIG), '--work-dir', str(room / 'run'), '--cfg-options', *_SMALL, option]
    tool, argv = rng.choice([('train', small), (other_tool, [*other, '--cfg-options', option])])
    return Case('judge_folder', f'{asset}/{file.name} {what}', tool, argv, (words,))


def place(rng: random.Random, world: World) -> Case:
    """A model that is named by something that is no place of a model."""
    room = world.room()
    (room / 'file.pt').write_bytes(b'')
    (room / 'empty').mkdir()
    key = rng.choice(['generator.pretrained', 'reward.checkpoint', 'structurer.backbone.pretrained'])
    value = rng.choice(
        [
            str(room / 'file.pt'),
            str(room / 'empty'),
            str(room / 'nowhere'),
            './nowhere',
            'vipo://nothing',
            'vipo://',
            'vipo://../registry',
            'vipo://prompts',
            '~nobody/x',
            'a/b/c',
            f'{"x" * 300}/model',
            'x' * 5000,
            '.',
            'name with spaces/x y',
        ]
    )
    argv = [str(CONFIG), '--work-dir', str(room / 'run'), '--cfg-options', *_SMALL, f'{key}={value}']
    return Case('place', f'{key}={value[:60]}', 'train', argv, (key.split('.')[0],), env={'HF_HUB_OFFLINE': '1'})


def _png(width: int, height: int) -> bytes:
    """A PNG of no contents that says it is that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b'')


def picture(rng: random.Random, world: World) -> Case:
    """A file that is no picture, a part of one, one that lies about its size, or one of more than 8 bits."""
    room = world.room()
    path = room / 'a.png'
    noise = np.frombuffer(rng.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    what = rng.choice(['cut', 'text', 'empty', 'noise', 'huge', '16 bits', 'animated', 'flipped', 'missing', 'folder'])
    if what == '16 bits':
        Image.fromarray(noise[..., 0].astype(np.uint16) * 256).save(path)
    elif what == 'animated':
        frames = [Image.new('RGB', (9, 9), colour) for colour in ('red', 'blue')]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif what in ('missing', 'folder'):
        path.unlink()
        if what == 'folder':
            path.mkdir()
    else:
        path.write_bytes(
            {
                'cut': whole[: rng.randrange(20, len(whole) - 100)],
                'text': b'this is no picture',
                'empty': b'',
                'noise': rng.randbytes(1000),
                'huge': _png(60000, 60000),
                'flipped': whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
            }[what]
        )
    tool, argv = rng.choice(
        [
            ('score', ['SceneJudge', '--images', str(path), '--prompts', 'a', '--out', str(room / 'o.csv')]),
            ('show_map', [str(CONFIG), '--images', str(path), '--out', str(room / 'maps')]),
        ]
    )
    return Case('picture', what, tool, argv, (str(path),))


def clip(rng: random.Random, world: World) -> Case:
    """A file that is no clip."""
    room = world.room()
    path = room / 'a.mp4'
    what = rng.choice(['empty', 'text', 'noise', 'missing', 'a picture'])
    if what == 'a picture':
        Image.new('RGB', (20, 20)).save(path, format='BMP')
        path.write_bytes(path.read_bytes()[:30])
    elif what != 'missing':
        path.write_bytes({'empty': b'', 'text': b'this is no clip', 'noise': rng.randbytes(2000)}[what])
    tool, argv = rng.choice(
        [
            ('score', ['SceneJudge', '--videos', str(path), '--prompts', 'a', '--out', str(room / 'o.csv')]),
            ('show_map', [str(CONFIG), '--videos', str(path), '--out', str(room / 'maps')]),
        ]
    )
    return Case('clip', what, tool, argv, (str(path),))


KINDS = {
    prompts: 4,
    table: 1,
    generator_folder: 4,
    judge_folder: 4,
    place: 2,
    picture: 2,
    clip: 1,
}
