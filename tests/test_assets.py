"""The embedded models are small, complete, and good enough to be worth training on."""

import random

import pytest
import torch

from tools.tiny.reward import FLAWS, OBJECT_FLAWS, flawed, spoil
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
@pytest.mark.parametrize('flaw', [*FLAWS, *OBJECT_FLAWS])
def test_reward_prefers_the_true_drawing(flaw):
    """Against each kind of flaw the true drawing wins nearly always."""
    reward, rng, generator = (
        HPSReward(checkpoint='vipo://tiny-hps'),
        random.Random(77),
        torch.Generator().manual_seed(0),
    )
    true = scenes(128, 78)
    prompts = [s.prompt for s in true]
    drawing = draw(true, 1)
    if flaw == 'pixels':
        pixels = spoil(drawing.pixels, 1.0, generator)
    elif flaw in OBJECT_FLAWS:
        pixels = OBJECT_FLAWS[flaw](drawing, generator)
    else:
        pixels = draw([flawed(s, flaw, rng) for s in true], 2).pixels
    good, bad = (reward(x[:, :, None], prompts).scores for x in (drawing.pixels, pixels))
    assert (good > bad).float().mean() > 0.85
    assert good.mean() > bad.mean() + 0.03


@pytest.mark.slow
def test_reward_prefers_what_the_judge_prefers_among_attempts():
    """Within a prompt, the generator's better shapes get the higher rewards: there is something to learn."""
    generator = SD3Generator('vipo://tiny-sd3', resolution=64, max_sequence_length=16)
    reward, judge, gaps = HPSReward(checkpoint='vipo://tiny-hps'), SceneJudge(), []
    for number, prompt in enumerate(r['prompt'] for r in read_prompts('vipo://prompts/scenes_eval.txt')[:16]):
        conditioning = generator.encode([prompt]).repeat(12)
        noise = SampleNoise(range(12 * number, 12 * number + 12), generator.latent_shape())('initial')
        with torch.no_grad():
            latents = integrate(lambda x, s, c=conditioning: generator.velocity(x, s, c), noise, generator.sigmas(8))
        pixels = generator.decode(latents)
        right = judge(pixels, [prompt] * 12).parts['shape']
        if 0 < right.mean() < 1:
            scores = reward(pixels, [prompt] * 12).scores
            gaps.append(scores[right == right.max()].mean() - scores[right < right.max()].mean())
    assert len(gaps) > 8
    assert torch.stack(gaps).mean() > 0.005


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
