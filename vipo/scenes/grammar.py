"""Scenes as data, and the prompt that names each of them.

A prompt is generated from a :class:`Scene` and can be parsed back into one, so that the judge needs nothing but the
text. The grammar has two sentence forms::

    a small red circle at the left on a striped gray background
    a large blue square above a small green ring on a plain navy background
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

SHAPES = ('circle', 'square', 'triangle', 'cross', 'ring', 'diamond')
SIZES = ('small', 'large')
POSITIONS = ('left', 'right', 'top', 'bottom', 'center')
RELATIONS = ('left of', 'right of', 'above', 'below')
TEXTURES = ('plain', 'striped', 'checkered', 'dotted')

#: Saturated colours, worn by objects only. RGB in [0, 1].
COLORS: dict[str, tuple[float, float, float]] = {
    'red': (0.90, 0.12, 0.12),
    'green': (0.10, 0.72, 0.18),
    'blue': (0.12, 0.25, 0.95),
    'yellow': (0.97, 0.90, 0.10),
    'purple': (0.62, 0.12, 0.85),
    'cyan': (0.10, 0.88, 0.92),
    'orange': (0.98, 0.52, 0.05),
}
#: Muted colours, worn by backgrounds only. RGB in [0, 1].
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    'gray': (0.55, 0.55, 0.55),
    'brown': (0.42, 0.30, 0.20),
    'navy': (0.13, 0.16, 0.30),
    'olive': (0.42, 0.44, 0.26),
    'cream': (0.92, 0.88, 0.78),
}
_OPPOSITE = {'left of': 'right of', 'right of': 'left of', 'above': 'below', 'below': 'above'}


@dataclass(frozen=True)
class SceneObject:
    """One thing in a scene: what the prompt says of it."""

    size: str
    color: str
    shape: str

    def __str__(self) -> str:
        return f'{self.size} {self.color} {self.shape}'


@dataclass(frozen=True)
class Scene:
    """One or two objects on a background.

    ``placement`` is one of :data:`POSITIONS` for a single object and one of :data:`RELATIONS` for two.
    """

    objects: tuple[SceneObject, ...]
    placement: str
    texture: str
    background: str

    @property
    def prompt(self) -> str:
        """The sentence that names the scene."""
        ground = f'on a {self.texture} {self.background} background'
        if len(self.objects) == 1:
            return f'a {self.objects[0]} at the {self.placement} {ground}'
        first, second = self.objects
        return f'a {first} {self.placement} a {second} {ground}'

    def mirrored(self) -> Scene:
        """The same two objects with the opposite relation; a single object is returned as it is."""
        if len(self.objects) == 1:
            return self
        return Scene(self.objects, _OPPOSITE[self.placement], self.texture, self.background)


_THING = rf'a (?P<size{{0}}>{"|".join(SIZES)}) (?P<color{{0}}>{"|".join(COLORS)}) (?P<shape{{0}}>{"|".join(SHAPES)})'
_GROUND = rf'on a (?P<texture>{"|".join(TEXTURES)}) (?P<background>{"|".join(BACKGROUNDS)}) background'
_ONE = re.compile(rf'{_THING.format(0)} at the (?P<placement>{"|".join(POSITIONS)}) {_GROUND}')
_TWO = re.compile(rf'{_THING.format(0)} (?P<placement>{"|".join(RELATIONS)}) {_THING.format(1)} {_GROUND}')


def parse_prompt(prompt: str) -> Scene:
    """Read a scene back from its prompt.

    Raises:
        ValueError: if the sentence is not one that :attr:`Scene.prompt` can produce.
    """
    text = ' '.join(prompt.lower().split())
    match = _ONE.fullmatch(text) or _TWO.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{prompt!r} is not a scene prompt. Scene prompts look like '
            '"a small red circle at the left on a striped gray background" or '
            '"a large blue square above a small green ring on a plain navy background".'
        )
    parts = match.groupdict()
    count = 2 if 'size1' in parts else 1
    objects = tuple(SceneObject(parts[f'size{i}'], parts[f'color{i}'], parts[f'shape{i}']) for i in range(count))
    return Scene(objects, parts['placement'], parts['texture'], parts['background'])


def random_scene(rng: random.Random, two_objects: float = 0.4) -> Scene:
    """Draw a scene uniformly; ``two_objects`` is the probability of a pair. The objects of a pair differ in colour."""

    def thing(colors: list[str]) -> SceneObject:
        return SceneObject(rng.choice(SIZES), rng.choice(colors), rng.choice(SHAPES))

    first = thing(list(COLORS))
    texture, background = rng.choice(TEXTURES), rng.choice(list(BACKGROUNDS))
    if rng.random() >= two_objects:
        return Scene((first,), rng.choice(POSITIONS), texture, background)
    second = thing([c for c in COLORS if c != first.color])
    return Scene((first, second), rng.choice(RELATIONS), texture, background)


def words() -> list[str]:
    """Every word of the grammar, sorted: the vocabulary of the embedded tokenizers."""
    fixed = {'a', 'at', 'the', 'on', 'of', 'background'}
    open_words = {
        w for group in (SHAPES, SIZES, POSITIONS, RELATIONS, TEXTURES) for term in group for w in term.split()
    }
    return sorted(fixed | open_words | set(COLORS) | set(BACKGROUNDS))
