"""The protocol, without a network."""

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vipo.rewards import RewardOutput
from vipo.rewards.wire import (
    MAX_PIXELS,
    WireError,
    check_metadata,
    encode_png,
    quantise,
    read_answer,
    read_request,
    read_weights,
    to_pixels,
    write_answer,
    write_request,
)


def png(mode='RGB', size=(6, 4), **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, 'PNG', **options)
    return base64.b64encode(file.getvalue()).decode()


def request(**changes):
    message = {
        'version': 1,
        'id': 'x',
        'prompts': ['a', 'b'],
        'metadata': None,
        'samples': [{'frames': [png()]}, {'frames': [png()]}],
    }
    message = {k: v for k, v in {**message, **changes}.items() if v != 'absent'}
    return json.dumps(message).encode()


def test_pixels_arrive_as_their_nearest_levels(normal):
    pixels = normal(2, 3, 5, 7, 4) * 0.4 + 0.5
    pixels[0, 0, 0, 0, :3] = torch.tensor([1 / 255, 0.5 / 255 + 1e-4, 254.4 / 255])
    metadata = [{'fps': 8}, {'caption': 'ü', 'seed': None}]
    got = read_request(write_request(quantise(pixels), ['a cat', 'ü 猫'], metadata, 'number 1'), max_batch=2)
    assert got.id == 'number 1'
    assert got.prompts == ['a cat', 'ü 猫']
    assert got.metadata == metadata
    assert got.pixels.shape == (2, 5, 7, 4, 3)
    assert got.pixels[0, 0, 0, :3, 0].tolist() == [1, 1, 254]
    clipped = pixels.clip(0, 1)
    assert (to_pixels(got.pixels) - clipped).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(to_pixels(quantise(to_pixels(got.pixels))), to_pixels(got.pixels)), 'rounding twice'


def test_pictures_are_what_any_reader_of_png_sees():
    picture = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_png(picture)))))
    assert np.array_equal(read, picture)


def test_pixels_that_are_not_finite_cannot_travel():
    pixels = torch.zeros(3, 3, 1, 4, 4)
    pixels[1, 0, 0, 2, 2] = float('nan')
    with pytest.raises(WireError, match='sample 1 are not finite') as raised:
        quantise(pixels)
    assert raised.value.sample == 1


@pytest.mark.parametrize('record', ['text', {'x': float('nan')}, {'x': {1, 2}}, {'x': torch.zeros(2)}])
def test_metadata_that_cannot_travel_names_its_sample(record):
    with pytest.raises(WireError, match='metadata of sample 1') as raised:
        check_metadata([{}, record])
    assert raised.value.sample == 1


def header_only(width, height, depth, color):
    """A PNG by hand: whole, but with no pixels in it."""
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)), (b'IEND', b'')]
    packed = [struct.pack('>I', len(x)) + k + x + struct.pack('>I', zlib.crc32(k + x)) for k, x in chunks]
    return base64.b64encode(b'\x89PNG\r\n\x1a\n' + b''.join(packed)).decode()


@pytest.mark.parametrize(
    ('changes', 'words', 'sample'),
    [
        ({'version': 2}, 'protocol version 2, and this side speaks 1', None),
        ({'version': True}, 'protocol version True', None),
        ({'version': 'absent'}, "lacks 'version'", None),
        ({'metadat': None}, "unknown key 'metadat'", None),
        ({'id': 7}, '"id" must be a text', None),
        ({'id': ''}, '"id" must be a text', None),
        ({'prompts': ['a']}, '2 samples but 1 prompts', None),
        ({'prompts': ['a', 1]}, '"prompts" must be a list of texts', None),
        ({'prompts': 'ab'}, '"prompts" must be a list of texts', None),
        ({'metadata': [{}]}, '2 samples but 1 records', None),
        ({'metadata': [{}, 'x']}, '"metadata" must be null or a list of objects', None),
        ({'samples': []}, 'list of 1 to 2 samples', None),
        ({'samples': [{'frames': [png()]}] * 3}, 'list of 1 to 2 samples', None),
        ({'samples': [{'frames': [png()]}, png()]}, 'sample 1: a sample must be a JSON object', 1),
        ({'samples': [{'frames': []}, {'frames': [png()]}]}, 'sample 0: "frames" must be a list of at least one', 0),
        ({'samples': [{'frames': [png()]}, {'frames': [5]}]}, 'sample 1', 1),
        ({'samples': [{'frames': [png()]}, {'frames': ['ü']}]}, 'sample 1', 1),
        ({'samples': [{'frames': [png()]}, {'frames': ['AAAA']}]}, 'sample 1, frame 0: it is no PNG', 1),
        ({'samples': [{'frames': [png('RGBA')]}] * 2}, 'sample 0, frame 0: .* colour type 6, not 8 bit RGB', 0),
        ({'samples': [{'frames': [png('L')]}] * 2}, 'colour type 0', 0),
        ({'samples': [{'frames': [header_only(6, 4, 16, 2)]}] * 2}, 'bit depth 16', 0),
        ({'samples': [{'frames': [header_only(65536, 65536, 8, 2)]}] * 2}, f'more than {MAX_PIXELS} pixels', 0),
        ({'samples': [{'frames': [header_only(6, 4, 8, 2)]}] * 2}, 'sample 0, frame 0', 0),
        ({'samples': [{'frames': [png()]}, {'frames': [png(size=(4, 6))]}]}, 'sample 1, frame 0: 1 frames of 4x6', 1),
        ({'samples': [{'frames': [png()]}, {'frames': [png()] * 2}]}, 'sample 1, frame 0: 2 frames', 1),
    ],
)
def test_request_that_is_not_as_agreed_is_refused(changes, words, sample):
    with pytest.raises(WireError, match=words) as raised:
        read_request(request(**changes), max_batch=2)
    assert raised.value.sample == sample


@pytest.mark.parametrize('body', [b'', b'[]', b'null', b'\xff', b'{"version": NaN}', b'[' * 100000], ids=range(6))
def test_request_that_is_no_json_object_is_refused(body):
    with pytest.raises(WireError):
        read_request(body, max_batch=2)


def damaged(whole, how):
    if how == 'flipped':
        return whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]
    return whole + b'x' if how == 'more' else whole[:how]


@pytest.mark.parametrize('how', [10, 40, 60, -20, -1, 'flipped', 'more'])
def test_damaged_picture_names_its_sample_and_frame(how):
    whole = base64.b64decode(encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)))
    good, bad = (base64.b64encode(x).decode() for x in (whole, damaged(whole, how)))
    samples = [{'frames': [good, good]}, {'frames': [good, bad]}]
    with pytest.raises(WireError, match='sample 1, frame 1') as raised:
        read_request(request(samples=samples), max_batch=2)
    assert raised.value.sample == 1
    read_request(request(samples=[samples[0]] * 2), max_batch=2)


def test_answer_comes_back_as_it_was():
    """Including float32 to the last bit, an invalid sample, and a part without a number."""
    sent = RewardOutput(
        torch.tensor([0.1, 1 / 3, 2.0, float('nan')]),
        {'a': torch.tensor([1e-30, 2, 3, float('inf')]), 'b': torch.tensor([True, False, True, True])},
        torch.tensor([True, True, False, True]),
    )
    body = write_answer(sent, 'x')
    assert b'NaN' not in body
    assert b'Infinity' not in body
    got = read_answer(json.loads(body), 'x', 4)
    assert got.valid.tolist() == [True, True, False, False]
    assert torch.equal(got.scores[:2], sent.scores[:2])
    assert got.scores[2:].isnan().all()
    assert torch.equal(got.parts['a'][:3], sent.parts['a'][:3])
    assert got.parts['a'][3].isnan()
    assert got.parts['b'].tolist() == [1, 0, 1, 1]


GOOD = {'version': 1, 'id': 'x', 'scores': [1, None], 'valid': [True, False], 'parts': {'a': [1, 2.5]}}


def test_smallest_answer():
    got = read_answer({'version': 1, 'id': 'x', 'scores': [1, 2.5], 'valid': [True, True]}, 'x', 2)
    assert got.scores.tolist() == [1, 2.5]
    assert got.parts == {}
    assert read_answer(GOOD, 'x', 2).valid.tolist() == [True, False]


@pytest.mark.parametrize(
    'changes',
    [
        {'version': 2},
        {'version': '1'},
        {'id': 'y'},
        {'id': None},
        {'scores': [1]},
        {'scores': [1, None, 3]},
        {'scores': ['1', None]},
        {'scores': [True, None]},
        {'scores': [float('nan'), None]},
        {'scores': [float('inf'), None]},
        {'scores': [10**400, None]},
        {'scores': [1e300, None]},
        {'scores': {'0': 1, '1': 2}},
        {'scores': None},
        {'scores': [1, 2]},
        {'scores': [None, None]},
        {'valid': [True]},
        {'valid': [1, 0]},
        {'valid': None},
        {'parts': {'a': [1]}},
        {'parts': {'a': ['x', 2]}},
        {'parts': [1, 2]},
        {'weights': {'a': 1}},
        {'error': 'out of memory'},
    ],
    ids=str,
)
def test_answer_that_is_not_as_agreed_is_no_score(changes):
    with pytest.raises(WireError):
        read_answer({**GOOD, **changes}, 'x', 2)


@pytest.mark.parametrize('key', ['version', 'id', 'scores', 'valid'])
def test_answer_that_lacks_something_is_no_score(key):
    with pytest.raises(WireError, match=f'lacks {key!r}'):
        read_answer({k: v for k, v in GOOD.items() if k != key}, 'x', 2)


@pytest.mark.parametrize('answer', [None, [], 'scores', 0.5, [1, 2]])
def test_answer_that_is_no_object_is_no_score(answer):
    with pytest.raises(WireError, match='must be a JSON object'):
        read_answer(answer, 'x', 2)


def test_weights_of_a_server():
    assert read_weights({}) is None
    assert read_weights({'weights': None}) is None
    assert read_weights({'weights': {'a': 1, 'b': 0.5}}) == {'a': 1, 'b': 0.5}
    for wrong in ({'a': None}, {'a': 'x'}, {'a': float('nan')}, {}, [1], 'a'):
        with pytest.raises(WireError, match='weights'):
            read_weights({'weights': wrong})
