"""The embedded models are small, complete, and good enough to be worth training on."""

import math
import random
import re

import pytest
import torch

from tests.engine.conftest import ROOT
from tools.tiny.reward import FLAWS, OBJECT_FLAWS, flawed, spoil
from vipo.assets import resolve
from vipo.datasets import read_prompts
from vipo.diffusion import integrate
from vipo.engine.config import read_config
from vipo.generators import SD3Generator
from vipo.randomness import SampleNoise
from vipo.rewards import HPSReward, PickScoreReward
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
    assert len(files) == 8
    assert sum(f.stat().st_size for f in files) <= 10e6
    assert not [f for f in root.rglob('*') if f.suffix in ('.bin', '.pt', '.pth', '.pkl')]


def test_no_prompt_is_both_trained_on_and_held_out():
    training = {r['prompt'] for r in read_prompts('vipo://prompts/scenes_train.txt')}
    held_out = {r['prompt'] for r in read_prompts('vipo://prompts/scenes_eval.txt')}
    assert (len(training), len(held_out)) == (2048, 256)
    assert not training & held_out


def words(prompt):
    return set(re.findall('[a-z]+', prompt.lower()))


@pytest.mark.parametrize(('name', 'train', 'held_out'), [('general', 500, 100), ('video', 200, 50)])
def test_written_prompts_are_clean(name, train, held_out):
    """Plain ASCII on one line each, short enough for CLIP's 77 tokens, no two alike within a file or between both."""
    lists = [[r['prompt'] for r in read_prompts(f'vipo://prompts/{name}_{part}.txt')] for part in ('train', 'eval')]
    assert len(lists[0]) >= train
    assert len(lists[1]) >= held_out
    prompts = [prompt for part in lists for prompt in part]
    for prompt in prompts:
        assert prompt.isascii()
        assert prompt == ' '.join(prompt.split())
        # A token of CLIP is a word or a piece of a long one, or a mark; begin and end take two of the 77.
        pieces = [math.ceil(len(part) / 7) for part in re.findall(r"[A-Za-z']+|[0-9]|[^\sA-Za-z0-9']", prompt)]
        assert len(prompt.split()) >= 5
        assert sum(pieces) <= 70, prompt
        assert prompt.count('"') % 2 == 0
    assert len({p.lower().strip('. ') for p in prompts}) == len(prompts)
    for prompt in lists[1]:
        alike = max(lists[0], key=lambda other: len(words(prompt) & words(other)) / len(words(prompt) | words(other)))
        assert len(words(prompt) & words(alike)) < 0.5 * len(words(prompt) | words(alike)), (prompt, alike)


def test_quoted_words_are_there_to_be_drawn():
    quoted = [r['prompt'] for r in read_prompts('vipo://prompts/general_train.txt') if '"' in r['prompt']]
    assert len(quoted) >= 10
    assert all(re.search('"[A-Za-z0-9 :]+"', prompt) for prompt in quoted)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda p: p.stem)
def test_prompts_of_shipped_configs(path):
    cfg = read_config(path)
    kind = 'scenes' if 'tiny' in path.stem else 'general'
    # A clip is what has more than one frame.
    kind = 'video' if cfg.generator.get('num_frames', 1) > 1 else kind
    assert cfg.train_dataloader.dataset.file == f'vipo://prompts/{kind}_train.txt'
    assert cfg.evaluation.prompts == f'vipo://prompts/{kind}_eval.txt'


def test_base_of_video_configs_names_video_prompts():
    cfg = read_config(ROOT / 'configs' / '_base_' / 'policy_video.py')
    assert cfg.train_dataloader.dataset == {'type': 'PromptDataset', 'file': 'vipo://prompts/video_train.txt'}
    assert cfg.evaluation.prompts == 'vipo://prompts/video_eval.txt'
    assert cfg.evaluation.num_prompts <= len(read_prompts(cfg.evaluation.prompts))


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


def embedded(name):
    if name == 'tiny-hps':
        return HPSReward(checkpoint='vipo://tiny-hps')
    return PickScoreReward(pretrained='vipo://tiny-pick', scale=40.0)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['tiny-hps', 'tiny-pick'])
@pytest.mark.parametrize('flaw', [*FLAWS, *OBJECT_FLAWS])
def test_reward_prefers_the_true_drawing(flaw, name):
    """Against each kind of flaw the true drawing wins nearly always; the second model hardly sees melted objects."""
    reward, rng, generator = embedded(name), random.Random(77), torch.Generator().manual_seed(0)
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
    won = (good > bad).float().mean()
    if (flaw, name) == ('melt', 'tiny-pick'):
        assert won == pytest.approx(0.8, abs=0.05)
    else:
        assert won > 0.85
        assert good.mean() > bad.mean() + 0.03


@pytest.mark.slow
def test_rewards_prefer_what_the_judge_prefers_among_attempts():
    """Within a prompt, the generator's better shapes get the higher rewards: there is something to learn."""
    generator = SD3Generator('vipo://tiny-sd3', resolution=64, max_sequence_length=16)
    rewards, judge = {name: embedded(name) for name in ('tiny-hps', 'tiny-pick')}, SceneJudge()
    gaps = {name: [] for name in rewards}
    for number, prompt in enumerate(r['prompt'] for r in read_prompts('vipo://prompts/scenes_eval.txt')[:16]):
        conditioning = generator.encode([prompt]).take(torch.zeros(12, dtype=torch.int64))
        noise = SampleNoise(range(12 * number, 12 * number + 12), generator.latent_shape())('initial')
        with torch.no_grad():
            latents = integrate(lambda x, s, c=conditioning: generator.velocity(x, s, c), noise, generator.sigmas(8))
        pixels = generator.decode(latents)
        right = judge(pixels, [prompt] * 12).parts['shape']
        if 0 < right.mean() < 1:
            for name, reward in rewards.items():
                scores = reward(pixels, [prompt] * 12).scores
                gap = scores[right == right.max()].mean() - scores[right < right.max()].mean()
                gaps[name].append(gap / scores.std())
    assert len(gaps['tiny-hps']) > 8
    assert torch.stack(gaps['tiny-hps']).mean() == pytest.approx(0.8, abs=0.1)
    assert torch.stack(gaps['tiny-pick']).mean() == pytest.approx(0.3, abs=0.1), 'the weaker of the two'


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
