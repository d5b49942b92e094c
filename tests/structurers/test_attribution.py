from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from vipo.registry import STRUCTURERS, ConfigError
from vipo.rewards import FrameReward, FunctionReward, HPSReward, PictureReward, VideoAlignReward, WeightedReward
from vipo.structurers import RewardAttributionStructurer
from vipo.structurers.base import bind_reward, counters


class Spot(PictureReward):
    """The brightness of one corner, 8 x 8 pixels, and nothing else: what it looks at is known."""

    differentiable = True

    def score_pictures(self, pixels, prompts):
        return pixels[:, :, :8, -8:].mean((1, 2, 3)) * torch.tensor([float(p) for p in prompts])


def attribution(reward, **options):
    structurer = RewardAttributionStructurer(**options)
    bind_reward(structurer, reward)
    return structurer


@pytest.fixture
def pictures(normal):
    return normal(2, 3, 1, 32, 48).sigmoid()


@pytest.mark.parametrize('method', ['gradient', 'gradient_input'])
def test_map_lies_where_the_reward_looks(pictures, method):
    maps = attribution(Spot(), method=method, sigma=0.0)(pictures, (1, 4, 6), ['2', '-1'])
    assert maps.shape == (2, 1, 1, 4, 6)
    expected = torch.zeros(4, 6)
    expected[0, 5] = 24.0
    torch.testing.assert_close(maps, expected.expand(2, 1, 1, 4, 6))


def test_gradient_times_input_by_hand(pictures):
    """On the pixel grid: |sum_c g (x - 0.5)| with g = 1 / 192 in the corner."""
    maps = attribution(Spot(), sigma=0.0, normalize='minmax')(pictures, (1, 32, 48), ['1', '1'])
    expected = ((pictures - 0.5).sum(1)[:, None] / 192).abs()
    torch.testing.assert_close(maps[:, :, :, :8, -8:], expected[:, :, :, :8, -8:])
    assert maps[:, :, :, 8:].max() == 0


def test_clip_is_seen_through_its_frames(normal):
    clips = normal(1, 3, 5, 16, 16).sigmoid()
    all_frames = attribution(FrameReward(Spot()), sigma=0.0, method='gradient')(clips, (2, 2, 2), ['1'])
    torch.testing.assert_close(all_frames[0, 0], torch.tensor([[0.0, 4], [0, 0]]).expand(2, 2, 2))
    first = attribution(FrameReward(Spot(), frames=1), sigma=0.0, method='gradient')(clips, (2, 2, 2), ['1'])
    torch.testing.assert_close(first[0, 0], torch.tensor([[[0.0, 8], [0, 0]], [[0, 0], [0, 0]]]))


def test_record_of_a_prompt_reaches_the_reward(normal, tmp_path):
    """VideoAlign looks at a clip twice a second: at 2 frames a second all frames get credit, at 8 four of nine."""
    reward = VideoAlignReward(**VideoAlignReward.rehearsal({}, tmp_path))
    clips, grid = normal(3, 3, 9, 28, 28).sigmoid(), (9, 2, 2)
    structurer = attribution(reward, method='gradient', sigma=0.0, normalize='minmax', batch_size=2)
    seen = structurer(clips, grid, ['a', 'b', 'c'], [{'fps': 8}, {}, {'fps': 2}])[:, 0].amax((2, 3)) > 0
    counted = [i in (0, 3, 5, 8) for i in range(9)]
    # eight of nine: an even number
    assert seen.tolist() == [counted, counted, [i != 4 for i in range(9)]]


def test_sum_of_rewards(pictures):
    reward = WeightedReward({'a': {'reward': Spot(), 'weight': 2.0}, 'b': {'reward': Spot(), 'weight': -2.0}})
    structurer = attribution(reward, sigma=0.0)
    maps = structurer(pictures, (1, 4, 6), ['1', '1'])
    assert torch.equal(maps, torch.ones_like(maps)), 'the parts cancel: no preference'
    assert structurer.counts == {'frames': 2, 'constant': 2, 'broken': 0}
    assert list(counters(structurer)) == [structurer.counts]


def test_real_reward(normal):
    """The gradient of the embedded reward, by finite differences of single positions."""
    reward = HPSReward(checkpoint='vipo://tiny-hps')
    pictures = F.interpolate(normal(1, 3, 4, 4), (32, 32), mode='bicubic').sigmoid()
    maps = attribution(reward, sigma=0.0, normalize='minmax', method='gradient')(
        pictures[:, :, None], (1, 32, 32), ['a ring']
    )
    step, (y, x) = 1e-2, divmod(maps.flatten().argmax().item(), 32)
    total = 0.0
    for channel in range(3):
        up, down = pictures.clone(), pictures.clone()
        up[0, channel, y, x] += step
        down[0, channel, y, x] -= step
        with torch.no_grad():
            change = reward.score_pictures(up, ['a ring']) - reward.score_pictures(down, ['a ring'])
        total += abs(change.item()) / (2 * step)
    assert maps.max().item() == pytest.approx(total, rel=0.05)


def test_patches_against_the_text(normal):
    """The pooled vector of a picture whose patches are all alike is not known, but each patch's cosine is."""
    reward = HPSReward(checkpoint='vipo://tiny-hps')
    pictures = normal(2, 3, 1, 40, 80).sigmoid()
    towers, prompts = reward.towers, ['a red ring', 'a blue square']
    cosine = towers.patch_similarity(pictures[:, :, 0], prompts)
    patches = towers.side // towers.model.config.vision_config.patch_size
    assert cosine.shape == (2, patches, 2 * patches)
    assert cosine.abs().max() <= 1
    one = towers.patch_similarity(pictures[1:, :, 0], prompts[1:])
    torch.testing.assert_close(cosine[1:], one, atol=1e-5, rtol=1e-4)
    maps = attribution(reward, method='similarity', sigma=0.0, normalize='minmax')(
        pictures, (1, patches, 2 * patches), prompts
    )
    torch.testing.assert_close(maps[:, 0, 0], cosine - cosine.amin((1, 2), keepdim=True), atol=1e-5, rtol=1e-4)
    # On a picture of the model's own size the hidden states are those that the library gives for it.
    square = normal(1, 3, towers.side, towers.side).sigmoid()
    from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize

    state = towers.model.vision_model(pixel_values=normalize(square, OPENAI_MEAN, OPENAI_STD)).last_hidden_state[:, 1:]
    vectors = towers.model.visual_projection(towers.model.vision_model.post_layernorm(state))
    by_hand = torch.cosine_similarity(vectors, towers.text(['a ring'])[:, None], dim=-1)
    ours = towers.patch_similarity(square, ['a ring'])
    torch.testing.assert_close(ours.flatten(1), by_hand, atol=1e-5, rtol=1e-4)


def test_batches_do_not_matter(pictures):
    whole = attribution(Spot())(pictures, (1, 4, 6), ['1', '2'])
    torch.testing.assert_close(attribution(Spot(), batch_size=1)(pictures, (1, 4, 6), ['1', '2']), whole)


def test_gradient_that_is_not_finite_is_counted(pictures):
    class Cliff(Spot):
        def score_pictures(self, pixels, prompts):
            return (pixels[:, :, :8, :8].mean((1, 2, 3)) - pixels[:, :, :8, :8].mean((1, 2, 3)).detach()).sqrt()

    structurer = attribution(Cliff())
    assert torch.equal(structurer(pictures, (1, 4, 6), ['1', '1']), torch.ones(2, 1, 1, 4, 6))
    assert structurer.counts == {'frames': 2, 'constant': 0, 'broken': 2}


def test_mistakes_are_explained(pictures):
    with pytest.raises(ConfigError, match='needs a reward with a gradient, and FunctionReward has none'):
        attribution(FunctionReward(len))
    with pytest.raises(ConfigError, match='needs a reward that is a CLIP with its text tower, and Spot is none'):
        attribution(Spot(), method='similarity')
    pictures_alone = Spot()
    pictures_alone.towers = SimpleNamespace(model=torch.nn.Module())  # as the aesthetic predictor keeps them
    with pytest.raises(ConfigError, match='with its text tower, and Spot is none'):
        attribution(pictures_alone, method='similarity')
    with pytest.raises(ConfigError, match='no reward yet'):
        RewardAttributionStructurer()(pictures, (1, 4, 6), ['1', '1'])
    with pytest.raises(ValueError, match=r"structurer\.baseline has no effect with method='gradient'"):
        RewardAttributionStructurer('gradient', baseline=0.0)
    with pytest.raises(ValueError, match='2 samples but 1 prompts'):
        attribution(Spot())(pictures, (1, 4, 6), ['1'])
    for options, match in [({'method': 'grad'}, 'method must be'), ({'sigma': -1.0}, 'sigma >= 0')]:
        with pytest.raises(ConfigError, match=match):
            STRUCTURERS.build({'type': 'RewardAttributionStructurer', **options}, at='structurer')
