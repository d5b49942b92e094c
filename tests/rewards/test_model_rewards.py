"""What holds for every reward that loads a model; each one's own formula is tested in a file of its own."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rewards.conftest import MODEL_REWARDS, Bomb
from vipo.rewards import AestheticReward, CLIPScoreReward, ImageReward, PickScoreReward

PROMPTS = ['a small red circle', 'a large blue square above a ring', 'Blue  ring', 'a red circle at the left ' * 9]
each = pytest.mark.parametrize('cls', MODEL_REWARDS, ids=lambda c: c.__name__)


@pytest.fixture
def build(twin_options):
    return lambda cls, **options: cls(**{**twin_options(cls), **options})


@each
def test_score_depends_on_the_picture_and_on_the_prompt_where_it_is_read(cls, build, pictures):
    """Comparisons with a formula mean nothing if all scores are alike."""
    reward, x = build(cls), pictures()[:, :, None]
    out = reward(x, PROMPTS)
    assert out.scores.dtype == torch.float32
    assert out.valid.all()
    assert (out.scores - reward(1 - x, PROMPTS).scores).abs().max() > 1e-2
    change = (out.scores - reward(x, PROMPTS[::-1]).scores).abs().max()
    assert change == 0 if cls is AestheticReward else change > 1e-2


@each
def test_batch_size_does_not_matter(cls, build, pictures):
    x = pictures(40, 61)[:, :, None]
    pieces = build(cls, batch_size=3)(x, PROMPTS).scores
    torch.testing.assert_close(pieces, build(cls)(x, PROMPTS).scores, atol=1e-5, rtol=1e-5)


@each
def test_gradient_reaches_the_pixels(cls, build, pictures):
    reward, side = build(cls), build(cls).side if cls is ImageReward else build(cls).towers.side
    assert reward.differentiable
    # Not bright or dark enough for the filter to be cut off anywhere.
    x = (0.3 + 0.4 * pictures(2 * side + 20, 2 * side)).requires_grad_()
    before = reward.score_pictures(x, PROMPTS)
    before.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[:, :, 20:-20].abs().amax((1, 2, 3)).min() > 0
    # A step of some levels of 8 bits: less would be rounded away here and there.
    step = 0.5 * x.grad / x.grad.norm()
    gain = (reward.score_pictures(x + step, PROMPTS) - before).sum().item()
    assert gain == pytest.approx(0.5 * x.grad.norm().item(), rel=0.25)


@each
def test_weights_are_frozen(cls, build):
    reward = build(cls)
    network = reward.network if cls is ImageReward else reward.towers.model
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


@each
def test_half_precision_is_close(cls, build, pictures):
    x = pictures()[:, :, None]
    full, half = build(cls)(x, PROMPTS).scores, build(cls, dtype='bfloat16')(x, PROMPTS).scores
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.05 * full.abs().max()


@each
def test_clip_is_refused_with_the_way_out(cls, build, pictures):
    with pytest.raises(ValueError, match=r'clips of 2 frames.*FrameReward'):
        build(cls)(torch.stack([pictures(), 1 - pictures()], dim=2), PROMPTS)
    with pytest.raises(ValueError, match='4 samples but 1 prompts'):
        build(cls)(pictures()[:, :, None], PROMPTS[:1])


@each
def test_wrong_dtype_is_refused(cls, build):
    with pytest.raises(ValueError, match='int8'):
        build(cls, dtype='int8')


#: Reward, file of its twin, a matrix in it, and the name under which messages have that matrix.
FILES = [
    (PickScoreReward, 'clip/model.safetensors', 'visual_projection.weight', 'visual_projection.weight'),
    (CLIPScoreReward, 'clip/model.safetensors', 'text_model.encoder.layers.1.mlp.fc1.weight', None),
    (AestheticReward, 'clip/model.safetensors', 'text_projection.weight', 'text_projection.weight'),
    (AestheticReward, 'aesthetic/head.pth', 'layers.6.weight', 'layers.6.weight'),
    (
        ImageReward,
        'image_reward/ImageReward.pt',
        'blip.visual_encoder.blocks.1.attn.qkv.weight',
        'vision.encoder.layers.1.self_attn.qkv.weight',
    ),
    (
        ImageReward,
        'image_reward/ImageReward.pt',
        'blip.text_encoder.encoder.layer.0.crossattention.self.key.weight',
        'text.encoder.layer.0.crossattention.self.key.weight',
    ),
    (ImageReward, 'image_reward/ImageReward.pt', 'mlp.layers.7.weight', 'head.layers.7.weight'),
]
files = pytest.mark.parametrize(
    ('cls', 'name', 'key', 'ours'), FILES, ids=[f'{f[0].__name__} {f[2].split(".")[-4:][0]}' for f in FILES]
)


@pytest.fixture
def spoil(tmp_path):
    """``spoil(cls, name, change)``: options of a fresh twin after its file was changed."""

    def make(cls, name, change):
        options = cls.rehearsal({}, tmp_path)
        path = tmp_path / name
        tensors = path.suffix == '.safetensors'
        state = load_file(path) if tensors else torch.load(path)
        state = copy.deepcopy(state)
        change(state)
        save_file(state, path) if tensors else torch.save(state, path)
        return options

    return make


@files
def test_missing_key_is_refused(spoil, cls, name, key, ours):
    with pytest.raises(ValueError, match=f'missing {ours or key}'):
        cls(**spoil(cls, name, lambda s: s.pop(key)))


@files
def test_unexpected_key_is_refused(spoil, cls, name, key, ours):
    extra = key.replace('weight', 'scale')
    with pytest.raises(ValueError, match=f'unexpected {(ours or key).replace("weight", "scale")}'):
        cls(**spoil(cls, name, lambda s: s.update({extra: torch.zeros(2)})))
    with pytest.raises(ValueError, match='stranger'):
        cls(**spoil(cls, name, lambda s: s.update({'stranger': torch.zeros(2)})))


@files
def test_wrong_shape_is_refused(spoil, cls, name, key, ours):
    with pytest.raises(ValueError, match=rf'{ours or key} has shape \(3, 5\) instead of'):
        cls(**spoil(cls, name, lambda s: s.update({key: torch.zeros(3, 5)})))


@pytest.mark.parametrize(('cls', 'name'), dict.fromkeys(f[:2] for f in FILES))
def test_truncated_file_is_refused(cls, name, tmp_path):
    options = cls.rehearsal({}, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match='truncated'):
        cls(**options)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize(('cls', 'name'), dict.fromkeys(f[:2] for f in FILES))
def test_code_in_a_pickle_is_not_run(cls, name, zipped, tmp_path):
    options = cls.rehearsal({}, tmp_path)
    path = tmp_path / name
    if path.suffix == '.safetensors':
        state = load_file(path)
        path.unlink()
        path = path.with_name('pytorch_model.bin')
    else:
        state = torch.load(path)
    torch.save({**state, 'args': Bomb(tmp_path / 'boom')}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match='more than tensors') as raised:
        cls(**options)
    assert 'weights_only' not in str(raised.value), 'no advice on how to run it'
    assert not (tmp_path / 'boom').exists()


@each
def test_missing_tokenizer_is_refused(cls, tmp_path):
    """transformers makes an empty one, with which all prompts are the same."""
    options = cls.rehearsal({}, tmp_path)
    folder = tmp_path / ('image_reward' if cls is ImageReward else 'clip')
    (folder / 'tokenizer.json').unlink()
    (folder / 'tokenizer_config.json').unlink()
    with pytest.raises(ValueError, match=r'tokenizer in .* tokens and its model has'):
        cls(**options)


@each
def test_a_plan_and_the_hub_know_the_published_model(cls, twin_options):
    published = cls.hub_models({'head': 'head.pth'})
    assert all(name.count('/') == 1 or name == 'bert-base-uncased' for name in published.values())
    assert cls.model_bytes({'dtype': 'bfloat16'}) * 2 == cls.model_bytes({}) > 10**9
    twin = twin_options(cls)
    assert set(cls.hub_models(twin)) <= set(twin), 'a twin names a place of its own for each'
    assert cls.model_bytes(twin) is None
