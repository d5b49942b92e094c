"""Stage ``prompts``: the prompt files of the embedded job, training and held-out, with no prompt in both."""

from __future__ import annotations

import random
from pathlib import Path

from vipo.scenes.grammar import random_scene

TRAIN, HELD_OUT = 2048, 256


def write(out: Path, report: Path, steps: int, batch: int, seed: int) -> None:
    """One prompt a line. The other arguments are those of every stage and are not used."""
    rng = random.Random(seed + 1)
    unique: dict[str, None] = {}
    while len(unique) < TRAIN + HELD_OUT:
        unique.setdefault(random_scene(rng).prompt)
    lines = list(unique)
    folder = out / 'prompts'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'scenes_train.txt').write_text('\n'.join(lines[:TRAIN]) + '\n', encoding='utf-8')
    (folder / 'scenes_eval.txt').write_text('\n'.join(lines[TRAIN:]) + '\n', encoding='utf-8')
    print(f'[prompts] {TRAIN} training and {HELD_OUT} held-out prompts in {folder}')
