"""Finished runs that are to be compared, in which a file is broken."""

from __future__ import annotations

import json
import random

from tests.engine.fuzz.case import CONFIG, Case, World

_RECORD = b'{"iteration": 1, "reward": 0.5}\n'
#: What is broken -> the file, and its bytes; none for a file that is missing.
_BROKEN = {
    'no history': ('history.jsonl', None),
    'history of noise': ('history.jsonl', b'\xff\xfe\n'),
    'history of numbers': ('history.jsonl', b'5\n'),
    'history without iterations': ('history.jsonl', b'{"reward": 1.0}\n'),
    'iteration as text': ('history.jsonl', b'{"iteration": "one"}\n'),
    'a cut line': ('history.jsonl', b'{"iteration": 1\n' + _RECORD),
    'summary of noise': ('summary.json', b'\xff'),
    'summary as a list': ('summary.json', b'[1]'),
    'evaluation of noise': ('evaluations/iter_0.npz', b'\x00' * 99),
    'evaluation of no iteration': ('evaluations/iter_last.npz', b''),
    'maps of noise': ('maps.npz', b'nothing'),
    'no config': (CONFIG.name, None),
    'config of nothing': (CONFIG.name, b''),
    'config that is no Python': (CONFIG.name, b'x = ('),
    'test as a number': ('test/iter_1/results.json', b'5'),
    'test about text': ('test/iter_1/results.json', b'{"about": "all"}'),
    'test without a table': ('test/iter_1/per_prompt.csv', None),
    'scores of text': ('test/iter_1/per_prompt.csv', b'prompt_id,prompt,before/reward\n0,a ball,good\n'),
}


def compared(rng: random.Random, world: World) -> Case:
    """A run in which the history, the summary, an evaluation, the maps, the config or the results of a test is broken,
    or no run."""
    out = ['--out', str(world.room() / 'out')]
    what = rng.choice([*_BROKEN, 'no folder', 'a file', 'an empty folder', 'the same twice'])
    if what in _BROKEN:
        name, content = _BROKEN[what]
        run = world.copy_of_run()
        tested = run / 'test' / 'iter_1'
        tested.mkdir(parents=True)
        (tested / 'results.json').write_text(json.dumps({'about': {}}))
        (tested / 'per_prompt.csv').write_text('prompt_id,prompt,before/reward\n0,a ball,0.5\n')
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content)
        # A test is read from its folder as a whole.
        words = 'test/iter_1' if name.startswith('test/') else name
        words = ('--config', 'config', name) if name == CONFIG.name else words
        return Case('compared', what, 'compare', [str(run), *out], (words,))
    room = world.room()
    (room / 'file').touch()
    (room / 'empty').mkdir()
    runs = {
        'no folder': [str(room / 'nothing')],
        'a file': [str(room / 'file')],
        'an empty folder': [str(room / 'empty')],
        'the same twice': [str(world.canary)] * 2,
    }[what]
    return Case('compared', what, 'compare', [*runs, *out], (runs[0],))


KINDS = {compared: 4}
