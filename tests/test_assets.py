"""The embedded models are small, complete, and good enough to be worth training on."""

import random

import pytest
import torch

from tools.tiny.reward import FLAWS, flawed, spoil
from vipo.assets import resolve
from vipo.datasets import read_prompts
from vipo.diffusion import integrate
from vipo.generators import SD3Generator
from vipo.randomness import SampleNoise
from vipo.rewards import HPSReward
from vipo.scenes.draw import draw
from vipo.scenes.grammar import random_scene
from vipo.scenes.judge import SceneJudge
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import DINOv2Backbone


def scenes(count, seed):
    rng = random.Random(seed)
    return [random_scene(rng) for _ in range(count)]


def test_all_weights_are_safetensors_of_at_most_ten_megabytes():
    from pathlib import Path

    root = Path(resolve('vipo://tiny-sd3')).parent
    files = list(root.rglob('*.safetensors'))
    assert len(files) == 7
    assert sum(f.stat().st_size for f in files) <= 10e6
    assert not [f for f in root.rglob('*') if f.suffix in ('.bin', '.pt', '.pth', '.pkl')]


def test_no_prompt_is_both_trained_on_and_held_out():
    training = {r['prompt'] for r in read_prompts('vipo://prompts/scenes_train.txt')}
    held_out = {r['prompt'] for r in read_prompts('vipo://prompts/scenes_eval.txt')}
    assert (len(training), len(held_out)) == (2048, 256)
    assert not training & held_out


def test_unknown_asset_and_missing_path_say_so():
    with pytest.raises(ValueError, match='vipo://tiny-sd3'):
        resolve('vipo://tiny-sd5')
    with pytest.raises(ValueError, match='does not exist'):
        resolve('./nowhere')
    assert resolve('owner/name') == 'owner/name'


@pytest.mark.slow
def test_generator_recognises_its_prompts_and_leaves_something_to_learn():
    generator = SD3Generator('vipo://tiny-sd3', resolution=64, max_sequence_length=16)
    prompts = [r['prompt'] for r in read_prompts('vipo://prompts/scenes_eval.txt')][:64]
    conditioning = generator.encode(prompts)
    noise = SampleNoise(range(64), generator.latent_shape())('initial')
    with torch.no_grad():
        latents = integrate(lambda x, s: generator.velocity(x, s, conditioning), noise, generator.sigmas(10))
    right = SceneJudge()(generator.decode(latents), prompts)
    other = SceneJudge()(generator.decode(latents), prompts[1:] + prompts[:1])
    assert 0.45 < right.scores.mean() < 0.95
    assert right.scores.mean() > other.scores.mean() + 0.2


@pytest.mark.slow
def test_reward_prefers_the_true_drawing():
    """Per kind of flaw, how often the true drawing wins. The shipped reward is blind to placement: see embedded.md."""
    reward, rng = HPSReward(checkpoint='vipo://tiny-hps'), random.Random(77)
    true = scenes(128, 78)
    prompts = [s.prompt for s in true]
    good = reward(draw(true, 1).pixels[:, :, None], prompts).scores
    for flaw in set(FLAWS) - {'placement'}:
        if flaw == 'pixels':
            pixels = spoil(draw(true, 1).pixels, 1.0, torch.Generator().manual_seed(0))
        else:
            pixels = draw([flawed(s, flaw, rng) for s in true], 2).pixels
        bad = reward(pixels[:, :, None], prompts).scores
        assert (good > bad).float().mean() > (0.65 if flaw == 'shape' else 0.9), flaw
        assert good.mean() > bad.mean(), flaw


@pytest.mark.slow
def test_maps_of_the_main_job_lie_on_the_objects():
    """Pointing game: the brightest place of the map is on an object; objects get more than their share of the mass."""
    drawing = draw(scenes(64, 79), 2)
    structurer = PerceptualStructurer(DINOv2Backbone('vipo://tiny-dinov2'), PCAAllocator())
    maps = structurer(drawing.pixels[:, :, None], (1, 16, 16))[:, 0, 0]
    objects = torch.nn.functional.avg_pool2d(drawing.masks.amax(1, keepdim=True), 4)[:, 0]
    hit = objects.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True)) > 0.25
    assert hit.float().mean() > 0.8
    share = (maps * objects).sum((1, 2)) / objects.sum((1, 2))
    assert share.mean() > 1.5, 'mean map value on objects; 1 is uniform'
