"""What travels between :class:`~vipo.rewards.RemoteReward` and a reward server: JSON, with pictures as 8 bit PNG.

``docs/reward-service.md`` describes the messages for those who write a server of their own. Both sides check everything
that they read, so that a damaged or foreign answer is never taken for a score.
"""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import zlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vipo.rewards.base import RewardOutput

#: Of the protocol. A message of another version is refused.
VERSION = 1
#: Most pixels that a request may unpack to: a small PNG can hold a huge picture.
MAX_PIXELS = 2**29


class WireError(ValueError):
    """A message that is not what the protocol says.

    Attributes:
        sample: number of the sample that is wrong, where it is known.
    """

    def __init__(self, message: str, sample: int | None = None) -> None:
        super().__init__(message)
        self.sample = sample


@dataclass
class ScoreRequest:
    """A request as the server reads it.

    Attributes:
        id: chosen by the client; the answer repeats it.
        pixels: ``(B, F, Y, X, 3)`` uint8.
        prompts: B prompts.
        metadata: B records, or None.
    """

    id: str
    pixels: np.ndarray
    prompts: list[str]
    metadata: list[dict[str, Any]] | None


def quantise(pixels: Tensor) -> np.ndarray:
    """``(B, 3, F, Y, X)`` in [0, 1] -> ``(B, F, Y, X, 3)`` uint8, rounded to the nearest of 256 levels.

    Raises:
        WireError: a sample is not finite, which no picture can carry.
    """
    finite = pixels.isfinite().flatten(1).all(1)
    if not finite.all():
        index = int((~finite).nonzero()[0])
        raise WireError(f'the pixels of sample {index} are not finite', index)
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def to_pixels(levels: np.ndarray) -> Tensor:
    """The other way: ``(B, F, Y, X, 3)`` uint8 -> ``(B, 3, F, Y, X)`` float32 in [0, 1]."""
    return torch.from_numpy(levels).permute(0, 4, 1, 2, 3).contiguous().float() / 255


def encode_png(picture: np.ndarray) -> str:
    """``(Y, X, 3)`` uint8 -> PNG as base64 text. Compression is light: time matters more than size here."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format='PNG', compress_level=1)
    return base64.b64encode(file.getvalue()).decode('ascii')


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose chunks are all there and have the right checksums; nothing is unpacked.

    Raises:
        ValueError: it is damaged, or no PNG with three channels of 8 bits.
    """
    if data[:8] != b'\x89PNG\r\n\x1a\n' or data[12:16] != b'IHDR':
        raise ValueError('it is no PNG')
    start = 8
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], 'big')
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], 'big'):
            raise ValueError('the PNG is damaged')
        start, last = end + 4, data[start + 4 : start + 8]
    if start != len(data) or last != b'IEND':
        raise ValueError('the PNG is cut off')
    width, height, depth, color = struct.unpack('>IIBB', data[16:26])
    if (depth, color) != (8, 2):
        raise ValueError(f'it is a PNG of bit depth {depth} and colour type {color}, not 8 bit RGB')
    return width, height


def parse_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, and no bare NaN or Infinity.

    Raises:
        WireError: it is not.
    """

    def refuse(name: str) -> NoReturn:
        raise ValueError(f'{name} is no JSON')

    try:
        return json.loads(body.decode('utf-8'), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise WireError(f'no JSON ({error})') from error


def check_metadata(metadata: Sequence[Any] | None) -> None:
    """Refuse metadata that cannot travel.

    Raises:
        WireError: the record of a sample is no JSON object.
    """
    for i, record in enumerate(metadata or ()):
        try:
            if not isinstance(record, dict):
                raise TypeError(f'it is {type(record).__name__}, not dict')
            json.dumps(record, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise WireError(f'the metadata of sample {i} cannot travel as a JSON object: {error}', i) from error


def write_request(levels: np.ndarray, prompts: Sequence[str], metadata: Sequence[Any] | None, id: str) -> bytes:
    """Body of ``POST /score``; ``levels`` as :func:`quantise` gives them, ``metadata`` checked."""
    message = {
        'version': VERSION,
        'id': id,
        'prompts': list(prompts),
        'metadata': None if metadata is None else list(metadata),
        'samples': [{'frames': [encode_png(frame) for frame in clip]} for clip in levels],
    }
    return json.dumps(message, allow_nan=False).encode('utf-8')


def read_request(body: bytes, max_batch: int) -> ScoreRequest:
    """Read and check the body of ``POST /score``.

    Raises:
        WireError: anything in it is not as the protocol says; nothing is guessed.
    """
    message = _object(
        parse_json(body), 'the request', {'version', 'id', 'prompts', 'metadata', 'samples'}, {'metadata'}
    )
    _check_version(message)
    prompts, samples, metadata = message['prompts'], message['samples'], message.get('metadata')
    if not isinstance(message['id'], str) or not 1 <= len(message['id']) <= 128:
        raise WireError('"id" must be a text of 1 to 128 characters')
    if not isinstance(samples, list) or not 1 <= len(samples) <= max_batch:
        raise WireError(f'"samples" must be a list of 1 to {max_batch} samples; send more of them in several requests')
    if not isinstance(prompts, list) or not all(isinstance(p, str) for p in prompts):
        raise WireError('"prompts" must be a list of texts')
    if len(prompts) != len(samples):
        raise WireError(f'{len(samples)} samples but {len(prompts)} prompts')
    if metadata is not None:
        if not isinstance(metadata, list) or not all(isinstance(m, dict) for m in metadata):
            raise WireError('"metadata" must be null or a list of objects')
        if len(metadata) != len(samples):
            raise WireError(f'{len(samples)} samples but {len(metadata)} records of metadata')
    return ScoreRequest(message['id'], _read_pixels(samples), prompts, metadata)


def _read_pixels(samples: list[Any]) -> np.ndarray:
    clips: list[list[bytes]] = []
    for i, sample in enumerate(samples):
        try:
            frames = _object(sample, 'a sample', {'frames'})['frames']
            if not isinstance(frames, list) or not frames:
                raise ValueError('"frames" must be a list of at least one picture')
            clips.append([base64.b64decode(frame, validate=True) for frame in frames])
        except (TypeError, ValueError) as error:
            raise WireError(f'sample {i}: {error}', i) from error
    out: np.ndarray | None = None
    for i, clip in enumerate(clips):
        for j, data in enumerate(clip):
            try:
                width, height = png_size(data)
                if out is None:
                    if len(clips) * len(clip) * width * height > MAX_PIXELS:
                        raise ValueError(f'the request unpacks to more than {MAX_PIXELS} pixels; send fewer samples')
                    out = np.empty((len(clips), len(clip), height, width, 3), np.uint8)
                if (len(clip), height, width) != out.shape[1:4]:
                    raise ValueError(
                        f'{len(clip)} frames of {width}x{height}, but the request began with {out.shape[1]} frames of '
                        f'{out.shape[3]}x{out.shape[2]}; all samples of a request have one size'
                    )
                with Image.open(io.BytesIO(data), formats=['PNG']) as image:
                    out[i, j] = np.asarray(image)
            except Exception as error:  # a damaged PNG raises many things
                raise WireError(f'sample {i}, frame {j}: {error}', i) from error
    return out


def write_answer(output: RewardOutput, id: str) -> bytes:
    """Body of the answer. A sample without a valid score has null."""
    valid = output.valid.tolist()
    message = {
        'version': VERSION,
        'id': id,
        'scores': [s if ok else None for s, ok in zip(output.scores.tolist(), valid, strict=True)],
        'valid': valid,
        'parts': {name: [_finite(x) for x in part.float().tolist()] for name, part in output.parts.items()},
    }
    return json.dumps(message, allow_nan=False).encode('utf-8')


def read_answer(message: Any, id: str, count: int) -> RewardOutput:
    """Check the answer to a request of ``count`` samples.

    Raises:
        WireError: anything in it is not as the protocol says.
    """
    message = _object(message, 'the answer', {'version', 'id', 'scores', 'valid', 'parts'}, {'parts'})
    _check_version(message)
    if message['id'] != id:
        raise WireError('it answers another request')
    scores, valid = _numbers(message['scores'], 'scores', count), message['valid']
    if not isinstance(valid, list) or len(valid) != count or not all(isinstance(v, bool) for v in valid):
        raise WireError(f'"valid" must be a list of {count} times true or false')
    if valid != [s is not None for s in scores]:
        raise WireError('"scores" must have null where "valid" is false, and a number everywhere else')
    parts = message.get('parts') or {}
    if not isinstance(parts, dict):
        raise WireError('"parts" must be an object')
    read = {name: _tensor(_numbers(part, f'parts.{name}', count)) for name, part in parts.items()}
    return RewardOutput(_tensor(scores), read, torch.tensor(valid))


def read_weights(info: dict[str, Any]) -> dict[str, float] | None:
    """Of which parts the served score is a weighted sum, from the answer to ``GET /info``; None where it is none.

    Raises:
        WireError: they are no numbers by name.
    """
    weights = info.get('weights')
    if weights is None:
        return None
    if not isinstance(weights, dict) or not weights:
        raise WireError('"weights" must be null or an object with numbers')
    if None in _numbers(list(weights.values()), 'weights', len(weights)):
        raise WireError('"weights" must be numbers')
    return weights


def _object(value: Any, what: str, keys: set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WireError(f'{what} must be a JSON object, got {type(value).__name__}')
    lacking, unknown = sorted(keys - optional - set(value)), sorted(set(value) - keys)
    if lacking or unknown:
        problem = f'lacks {lacking[0]!r}' if lacking else f'has an unknown key {unknown[0][:40]!r}'
        raise WireError(f'{what} {problem}')
    return value


def _check_version(message: dict[str, Any]) -> None:
    if message['version'] != VERSION or isinstance(message['version'], bool):
        raise WireError(f'protocol version {message["version"]!r}, and this side speaks {VERSION}')


def _numbers(value: Any, name: str, count: int) -> list[float | None]:
    if not isinstance(value, list) or len(value) != count:
        got = f'{len(value)} of them' if isinstance(value, list) else type(value).__name__
        raise WireError(f'"{name}" must be a list of {count} numbers, got {got}')
    for number in value:
        plain = isinstance(number, (int, float)) and not isinstance(number, bool)
        # An integer beyond the largest float is no number here either.
        if number is not None and not (plain and abs(number) < 2**127 and math.isfinite(number)):
            raise WireError(f'"{name}" must hold finite numbers or null, got {str(number)[:40]!r}')
    return value


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _tensor(numbers: list[float | None]) -> Tensor:
    return torch.tensor([float('nan') if n is None else n for n in numbers], dtype=torch.float32)
