import builtins
import random
import time
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from vipo.registry import REWARDS, ConfigError
from vipo.rewards import OCRReward
from vipo.rewards.edit_distance import edit_distance, text_match
from vipo.rewards.ocr import quoted

NAN = float('nan')


@pytest.mark.parametrize(
    ('a', 'b', 'distance'),
    [
        ('kitten', 'sitting', 3),
        ('saturday', 'sunday', 3),
        ('flaw', 'lawn', 2),
        ('intention', 'execution', 5),
        ('', 'abc', 3),
        ('abc', '', 3),
        ('', '', 0),
        ('same', 'same', 0),
        ('ab', 'ba', 2),
        ('日本語', '日木語', 1),
    ],
)
def test_known_distances(a, b, distance):
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_distance_is_its_definition():
    """The recursion over first letters, on random words of few letters."""

    @cache
    def by_definition(a, b):
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return by_definition(a[1:], b[1:])
        return 1 + min(by_definition(a[1:], b), by_definition(a, b[1:]), by_definition(a[1:], b[1:]))

    draw = random.Random(0)
    for _ in range(300):
        a, b = (''.join(draw.choices('abc', k=draw.randrange(9))) for _ in range(2))
        assert edit_distance(a, b) == by_definition(a, b)


def test_distance_of_long_texts_is_quick():
    began = time.perf_counter()
    assert edit_distance('a' * 1000, 'b' * 300) == 1000
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ('target', 'lines', 'score'),
    [
        ('OPEN', ['open'], 1),
        ('open now', ['Op en', 'NOW!'], 1),
        ('open', ['we are open today'], 1),  # anywhere
        ('open', ['opn'], 1 - 1 / 4),
        ('open', ['opne'], 1 - 2 / 4),
        ('open', [], 0),
        ('open', ['zzzzzzzzzzzz'], 0),  # at most the length
        ('hello world', ['hello'], 5 / 10),
        ('ab', ['b', 'a'], 0),  # order counts: 2 edits
    ],
)
def test_match_by_hand(target, lines, score):
    assert text_match(target, lines) == pytest.approx(score)


def test_match_needs_a_target():
    with pytest.raises(ValueError, match='nothing to look for'):
        text_match('  ', ['a'])


@pytest.mark.parametrize(
    ('prompt', 'text'),
    [
        ('a sign that says "Open 24h"', 'Open 24h'),
        ('"first" and "second"', 'first'),
        ('no quotes', ''),
        ('only "one', ''),
        ('an empty ""', ''),
        ('curly “quotes” do not count', ''),
    ],
)
def test_text_between_quotes(prompt, text):
    assert quoted(prompt) == text


class Reader:
    """Reads what it is told, and remembers the pictures."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen = []

    def __call__(self, picture):
        self.seen.append(picture)
        return self.answers.pop(0)


def test_each_picture_is_held_against_its_own_prompt():
    reader = Reader(['open'], ['closd'])
    pixels = torch.zeros(2, 3, 1, 4, 6)
    pixels[1, 1] = 1
    out = OCRReward(reader)(pixels, ['"OPEN"', 'a "closed" sign'])
    assert out.scores.tolist() == pytest.approx([1, 5 / 6])
    assert out.valid.all()
    assert not OCRReward.differentiable
    assert [p.size for p in reader.seen] == [(6, 4), (6, 4)]
    assert [np.asarray(p)[0, 0].tolist() for p in reader.seen] == [[0, 0, 0], [0, 255, 0]]


def test_no_target_is_invalid_and_never_a_number():
    reader = Reader(['open'])
    out = OCRReward(reader)(torch.zeros(4, 3, 1, 4, 4), ['a cat', '"open"', 'a " cat', '" "'])
    assert out.valid.tolist() == [False, True, False, False]
    assert out.scores.isnan().tolist() == [True, False, True, True]
    assert len(reader.seen) == 1, 'what has no target is not read'


def test_pixel_that_is_no_number_is_invalid():
    pixels = torch.zeros(2, 3, 1, 4, 4)
    pixels[0, 0, 0, 0, 0] = NAN
    assert OCRReward(Reader(['a']))(pixels, ['"a"', '"a"']).valid.tolist() == [False, True]


def test_target_from_the_records():
    reward = OCRReward(Reader(['left'], ['x']), target_key='text')
    records = [{'prompt': 'p', 'text': 'LEFT'}, {'prompt': 'p', 'text': None}, {'prompt': 'p', 'text': 'y'}]
    out = reward(torch.zeros(3, 3, 1, 4, 4), ['a "b"'] * 3, records)
    assert out.valid.tolist() == [True, False, True]
    assert out.scores[[0, 2]].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"target_key='text' is not in a record.*\['prompt', 'txt'\]"):
        reward(torch.zeros(1, 3, 1, 4, 4), ['p'], [{'prompt': 'p', 'txt': 'a'}])
    with pytest.raises(ValueError, match=r"has 24 under reward\.target_key='text'"):
        reward(torch.zeros(1, 3, 1, 4, 4), ['p'], [{'text': 24}])
    with pytest.raises(ValueError, match=r'records of a \.jsonl'):
        reward(torch.zeros(1, 3, 1, 4, 4), ['p'])


def test_recogniser_by_its_path_and_wrong_ones():
    reward = REWARDS.build({'type': 'OCRReward', 'recogniser': 'tests.rewards.test_ocr.Reader'}, at='reward')
    assert reward.recogniser is Reader or reward.recogniser.__name__ == 'Reader'
    with pytest.raises(ValueError, match='must be callable'):
        OCRReward(3)
    with pytest.raises(ValueError, match='list of texts'):
        OCRReward(Reader('abc'))(torch.zeros(1, 3, 1, 4, 4), ['"a"'])
    with pytest.raises(ValueError, match='clips of 2 frames'):
        OCRReward(Reader())(torch.zeros(1, 3, 2, 4, 4), ['"a"'])


@pytest.mark.parametrize('absent', ['rapidocr', 'onnxruntime'])
def test_missing_extra_is_named(monkeypatch, absent):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == absent:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        if name in ('rapidocr', 'onnxruntime'):
            return type('module', (), {'RapidOCR': None})
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match=rf"{absent}.*pip install 'vipo\[ocr\]'"):
        OCRReward()
    with pytest.raises(ConfigError, match=r"config key 'reward': .*vipo\[ocr\]"):
        REWARDS.build({'type': 'OCRReward'}, at='reward')


def drawn(text, height=256, width=448):
    image = Image.new('RGB', (width, height), (200, 220, 240))
    ImageDraw.Draw(image).text((16, height // 3), text, fill=(20, 20, 60), font=ImageFont.load_default(56))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None] / 255


@pytest.mark.slow
def test_the_real_recogniser_reads_drawn_text():
    for package in ('rapidocr', 'onnxruntime'):
        pytest.importorskip(package, reason="the extra 'vipo[ocr]' is not installed")
    pixels = torch.stack([drawn('Hello World'), drawn('OPEN 24H'), drawn('OPEN 24H'), drawn('')])
    out = OCRReward()(pixels, ['"hello world"', 'a sign "Open 24h"', 'a sign "Closed"', '"nothing"'])
    assert out.valid.all()
    assert out.scores[:2].tolist() == [1, 1]
    assert out.scores[2] < 0.5
    assert out.scores[3] == 0
