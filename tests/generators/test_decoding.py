"""Decoding in small batches and in tiles: less at once, in the places where it belongs."""

import json
import math
import shutil

import pytest
import torch

from tests.generators.families import FAMILIES, start
from tests.generators.test_sd3 import PROMPTS
from vipo.diffusion.rollout import integrate
from vipo.engine.measure import measure_decoding
from vipo.generators import SD3Generator
from vipo.registry import GENERATORS, ConfigError


def build(name, folder, **options):
    """A wide picture of several tiles of 4 x 4 latent positions, the smallest that a family can have."""
    side = 128 if name == 'wan22_5b' else 64
    return FAMILIES[name].build(folder(FAMILIES[name].twin), resolution=(side, 2 * side), **options)


def watched(generator, latents):
    """Pixels, and the shape of what the decoder was given in each call."""
    calls = []
    handle = generator.pipe.vae.decoder.register_forward_pre_hook(lambda _, args: calls.append(tuple(args[0].shape)))
    pixels = generator.decode(latents)
    handle.remove()
    return pixels, calls


@pytest.mark.parametrize('name', FAMILIES)
def test_batch_of_one_is_the_slicing_of_diffusers(name, twin_folder):
    """Slicing of the autoencoder itself, without ours, gives the same pixels in the same calls."""
    whole, single = (build(name, twin_folder, decode_batch=n) for n in (4, 1))
    for generator in (whole, single):
        generator.pipe.vae.double()  # random weights blow float32's rounding up
    latents = start(whole, count=4)
    pixels, calls = watched(whole, latents)
    ours, our_calls = watched(single, latents)
    whole.pipe.vae.enable_slicing()
    theirs, their_calls = watched(whole, latents)
    assert pixels.std() > 0.01
    torch.testing.assert_close(ours, pixels, atol=1e-6, rtol=0)
    assert torch.equal(ours, theirs)
    assert our_calls == their_calls
    assert len(our_calls) == 4 * len(calls)
    assert {c[0] for c in calls} == {4}
    assert {c[0] for c in our_calls} == {1}


@pytest.mark.parametrize('name', FAMILIES)
def test_tiles_are_decoded_alone_and_put_where_they_belong(name, twin_folder):
    """By hand: tiles of 4 positions begin at every third; where none overlaps, a tile's pixels are those of a crop."""
    plain = build(name, twin_folder)
    factor = plain.height // plain.latent_shape()[2]
    tiled = build(name, twin_folder, decode_tile=4 * factor)
    latents = start(plain, count=1)
    whole, whole_calls = watched(plain, latents)
    pixels, calls = watched(tiled, latents)
    assert pixels.shape == whole.shape
    rows, columns = math.ceil(8 / 3), math.ceil(16 / 3)
    assert len(calls) == rows * columns * len(whole_calls)
    assert {c[-1] for c in calls} <= {4, 1}, 'the last one has what is left of 16'
    assert max(math.prod(c) for c in calls) == max(math.prod(c) for c in whole_calls) // 8
    for row in range(rows):
        for column in range(columns):
            y, x = 3 * row, 3 * column
            alone = plain.decode(latents[..., y : y + 4, x : x + 4])[..., factor : 3 * factor, factor : 3 * factor]
            there = pixels[..., (y + 1) * factor : (y + 3) * factor, (x + 1) * factor : (x + 3) * factor]
            torch.testing.assert_close(there, alone, atol=1e-5, rtol=0)
    assert (pixels - whole).abs().max() > 1e-3, 'tiles know nothing of each other, so that something is different'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        ('FluxGenerator', {'resolution': 1024}),
        ('WanGenerator', {'num_frames': 9, 'resolution': (480, 832)}),
        ('HunyuanVideoGenerator', {'num_frames': 9, 'resolution': (480, 832)}),
    ],
)
def test_less_memory_at_once_at_full_size(kind, options):
    """Of the published autoencoders, on tensors without contents."""
    peaks = []
    for more in ({'decode_batch': 4}, {'decode_batch': 1}, {'decode_batch': 1, 'decode_tile': 256}):
        generator = GENERATORS.build({'type': kind, 'init': 'meta', **options, **more}, at='generator')
        peaks.append(measure_decoding(generator, 4))
    assert peaks[1] < 0.3 * peaks[0]
    assert peaks[2] < 0.4 * peaks[1]


def test_trained_autoencoder_draws_nearly_the_same_in_tiles():
    """Tiles of half a picture, by a decoder that was trained on whole ones."""
    options = {'pretrained': 'vipo://tiny-sd3', 'resolution': 64, 'max_sequence_length': 16}
    plain, tiled = SD3Generator(**options), SD3Generator(**options, decode_tile=32)
    texts = plain.encode(PROMPTS)
    with torch.no_grad():
        latents = integrate(lambda x, sigma: plain.velocity(x, sigma, texts), start(plain), plain.sigmas(8))
    pixels, calls = watched(tiled, latents)
    whole = plain.decode(latents)
    assert len(calls) == 9
    assert torch.corrcoef(torch.stack([pixels.flatten(), whole.flatten()]))[0, 1] > 0.95
    assert (pixels - whole).abs().mean() < 0.05


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        ('flux', {'decode_batch': 0}, ['generator.decode_batch must be at least 1, got 0']),
        ('flux', {'decode_tile': 48}, ['generator.decode_tile must be a multiple of 32', 'got 48']),
        ('wan22_5b', {'decode_tile': 32}, ['generator.decode_tile must be a multiple of 64']),
        ('wan21', {'decode_tile': 0}, ['generator.decode_tile must be a multiple of 32']),
        ('wan21', {'decode_tile': 128}, ['generator.decode_tile=128 changes nothing', '64x128 pixels']),
        ('flux', {'decode_tile': True}, ['generator.decode_tile must be int']),
    ],
)
def test_impossible_batches_and_tiles(name, options, words, twin_folder):
    family, side = FAMILIES[name], 128 if name == 'wan22_5b' else 64
    config = {'type': family.adapter.__name__, 'pretrained': twin_folder(name), 'resolution': (side, 2 * side)}
    with pytest.raises(ConfigError) as raised:
        GENERATORS.build({**config, **options}, at='generator')
    for word in words:
        assert word in str(raised.value)


def test_autoencoder_without_tiles(twin_folder, tmp_path):
    """A pipeline folder whose autoencoder is of a class that has no tiling."""
    shutil.copytree(twin_folder('sd3'), tmp_path / 'sd3')
    index = json.loads((tmp_path / 'sd3' / 'model_index.json').read_text())
    index['vae'] = ['diffusers', 'AsymmetricAutoencoderKL']
    (tmp_path / 'sd3' / 'model_index.json').write_text(json.dumps(index))
    (tmp_path / 'sd3' / 'vae' / 'config.json').write_text(
        json.dumps({'_class_name': 'AsymmetricAutoencoderKL', 'up_block_out_channels': [32] * 4})
    )
    options = {'pretrained': str(tmp_path / 'sd3'), 'resolution': 64, 'init': 'meta'}
    SD3Generator(**options)
    with pytest.raises(ValueError, match='AsymmetricAutoencoderKL cannot decode in tiles; leave it None'):
        SD3Generator(**options, decode_tile=32)
