"""The reward's own vision tower as a backbone: the same tensors, wherever the reward is."""

from types import SimpleNamespace

import pytest
import torch
from torchvision.transforms import InterpolationMode, Normalize, Resize

from tests.engine.conftest import run, small_config, weights
from vipo.engine.components import build_components
from vipo.registry import ConfigError
from vipo.rewards import FrameReward, FunctionReward, HPSReward, WeightedReward
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import CLIPBackbone, RewardTowerBackbone
from vipo.structurers.base import bind_reward

TINY = {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'}
PATCH = 8
openai = Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope='module')
def reward():
    return HPSReward(checkpoint='vipo://tiny-hps')


@pytest.fixture
def bound(reward):
    def make(**options):
        backbone = RewardTowerBackbone(**options)
        backbone.bind(reward)
        return backbone

    return make


@pytest.fixture
def pictures(normal):
    return lambda height, width: normal(2, 3, height, width).sigmoid()


def rows(tokens, height, width):
    return torch.stack([tokens[:, y * width : (y + 1) * width].mT for y in range(height)], dim=2)


@pytest.mark.parametrize('grid', [(8, 8), (5, 9)])
@torch.no_grad()
def test_features_are_those_of_the_towers_own_model(bound, reward, pictures, grid):
    height, width = grid[0] * PATCH, grid[1] * PATCH
    x = pictures(height, width)
    output = reward.towers.model.vision_model(openai(x), interpolate_pos_encoding=True, output_hidden_states=True)
    wanted = rows(output.last_hidden_state[:, 1:], *grid)
    torch.testing.assert_close(bound()(x).map, wanted, atol=1e-4, rtol=1e-4)
    for layer, states in [(-2, -2), (0, 1), (3, 4)]:
        wanted = rows(output.hidden_states[states][:, 1:], *grid)
        torch.testing.assert_close(bound(layer=layer)(x).map, wanted, atol=1e-4, rtol=1e-4)
    resized = Resize((height, width), InterpolationMode.BICUBIC, antialias=True)(pictures(height + 3, width - 2))
    found = bound()(pictures(height + 3, width - 2)).map
    torch.testing.assert_close(found, bound()(resized.clamp(0, 1)).map, atol=1e-3, rtol=1e-3)


def test_same_as_a_clip_of_its_own(bound, reward, pictures, tmp_path):
    """The two classes agree, attention included, block by block."""
    reward.towers.model.vision_model.save_pretrained(tmp_path)
    x = pictures(40, 56)
    for layer in (-1, 1):
        own = CLIPBackbone(str(tmp_path), layer=layer, cls_attention=True)(x)
        shared = bound(layer=layer, cls_attention=True)(x)
        torch.testing.assert_close(shared.map, own.map, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(shared.cls_attention, own.cls_attention, atol=1e-6, rtol=1e-4)
        assert shared.cls_attention.shape == (2, 5, 7)


def test_nothing_is_loaded_twice_and_nothing_of_the_reward_changes(bound, reward, pictures):
    model, x = reward.towers.model, pictures(64, 64)
    before = reward(x[:, :, None], ['a red ball', 'two cubes']).scores
    ours = bound(layer=0, cls_attention=True)
    assert ours.towers.model.vision_model is model.vision_model
    tensors = {id(p) for p in model.parameters()}
    assert {id(p) for p in ours.towers.model.vision_model.parameters()} <= tensors
    hooks = [len(m._forward_hooks) for m in model.modules()]
    ours(x)
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert torch.equal(reward(x[:, :, None], ['a red ball', 'two cubes']).scores, before)
    ours.to('meta')
    assert {p.device.type for p in model.parameters()} == {'cpu'}, 'the reward moves its weights itself'
    assert RewardTowerBackbone.model_bytes({}) == 0


def test_content_at_the_right_edge_alone_moves_the_last_column(bound):
    blank = torch.full((1, 3, 64, 68), 0.5)
    edge = blank.clone()
    edge[..., 64:] = 1.0
    moved = (bound()(edge).map - bound()(blank).map).norm(dim=1).mean((0, 1))
    assert moved.argmax() == len(moved) - 1


def test_size_options(bound, pictures):
    assert bound(max_tokens=20)(pictures(64, 64)).map.shape[-2:] == (4, 4)
    assert bound(input_size=32)(pictures(64, 96)).map.shape[-2:] == (4, 6)
    with pytest.raises(ValueError, match='both say how large'):
        RewardTowerBackbone(max_tokens=20, input_size=32)


def test_tower_of_wrapped_rewards(reward):
    plain = FunctionReward(lambda pixels, prompts, metadata: pixels.mean((1, 2, 3, 4)))
    other = HPSReward(checkpoint='vipo://tiny-hps')
    cases = [
        (FrameReward(reward), None),
        (WeightedReward({'plain': {'reward': plain}, 'hps': {'reward': reward}}), None),
        (WeightedReward({'a': {'reward': other}, 'b': {'reward': FrameReward(reward)}}), 'b'),
        (WeightedReward({'in': {'reward': WeightedReward({'x': {'reward': reward}})}, 'a': {'reward': other}}), 'in/x'),
        (WeightedReward({'in': {'reward': WeightedReward({'x': {'reward': reward}})}, 'a': {'reward': other}}), 'in'),
    ]
    for wrapped, part in cases:
        backbone = RewardTowerBackbone(part=part)
        backbone.bind(wrapped)
        assert backbone.towers is reward.towers


def test_rewards_that_do_not_fit(reward):
    plain = FunctionReward(lambda pixels, prompts, metadata: pixels.mean((1, 2, 3, 4)))
    both = WeightedReward({'a': {'reward': reward}, 'b': {'reward': reward}, 'c': {'reward': plain}})
    for wrapped, options, words in [
        (plain, {}, r'structurer\.backbone: .*and FunctionReward has none\. HPSReward has'),
        (SimpleNamespace(towers='of another kind'), {}, 'SimpleNamespace has none'),
        (both, {}, r'2 parts of WeightedReward .*structurer\.backbone\.part: a, b'),
        (both, {'part': 'c'}, "part 'c' of WeightedReward has none"),
        (reward, {'layer': 4}, r'structurer\.backbone\.layer=4: the model has 4 blocks'),
    ]:
        with pytest.raises(ConfigError, match=words):
            RewardTowerBackbone(**options).bind(wrapped)
    with pytest.raises(ConfigError, match=r'call backbone\.bind\(reward\) first'):
        RewardTowerBackbone()(torch.zeros(1, 3, 16, 16))


def test_features_that_are_not_finite_name_the_backbone(pictures):
    reward = HPSReward(checkpoint='vipo://tiny-hps')
    structurer = PerceptualStructurer(RewardTowerBackbone(), PCAAllocator())
    bind_reward(structurer, reward)
    reward.towers.model.vision_model.embeddings.class_embedding[0] = torch.nan
    with pytest.raises(ConfigError, match='RewardTowerBackbone returned features that are not finite'):
        structurer(pictures(32, 32)[:, :, None], (1, 4, 4))


def components(tmp_path, offload, backbone='RewardTowerBackbone', **options):
    backbone = {'_delete_': True, 'type': backbone}
    cfg = small_config(tmp_path, structurer__backbone=backbone, evaluation=None, offload=offload, **options)
    return build_components(cfg)


def test_run_binds_its_reward(tmp_path):
    c = components(tmp_path, [])
    assert c.structurer.backbone.towers is c.reward.towers
    with pytest.raises(ConfigError, match='SceneJudge has none'):
        components(tmp_path, [], reward={'_delete_': True, 'type': 'SceneJudge'})


@pytest.mark.parametrize('offload', [[], ['map'], ['reward'], ['reward', 'map']])
def test_weights_are_on_the_device_while_the_map_is_made(tmp_path, offload, monkeypatch):
    """They travel with the reward, for the map as for the scores, and never go away because the map does."""
    c, places = components(tmp_path, offload), []
    monkeypatch.setattr(c.reward, 'to', lambda where: places.append(torch.device(where).type))
    c.to('meta')  # where a GPU would be
    resting = 'cpu' if 'reward' in offload else 'meta'
    assert places[-1] == resting
    for names in [('map',), ('map', 'reward'), ('reward',)]:
        travels = len(places)
        with c.working(*names):
            assert places[-1] == 'meta'
        assert places[-1] == resting
        assert len(places) - travels == (2 if 'reward' in offload else 0)


@pytest.mark.slow
def test_run_with_everything_offloaded_is_the_same(tmp_path):
    options = {
        'evaluation': None,
        'train_cfg__max_iters': 1,
        'structurer__backbone': {'_delete_': True, 'type': 'RewardTowerBackbone', 'layer': -2},
    }
    plain = run(small_config(tmp_path / 'plain', **options))
    away = run(small_config(tmp_path / 'away', offload=['autoencoder', 'reward', 'map'], **options))
    ours, theirs = weights(away), weights(plain)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_map_with_a_model_of_its_own_leaves_the_reward_away(tmp_path, monkeypatch):
    cfg = small_config(tmp_path, evaluation=None, offload=['reward', 'map'])
    c = build_components(cfg)
    moved = []
    monkeypatch.setattr(c.reward, 'to', moved.append)
    with c.working('map'):
        pass
    assert moved == []
