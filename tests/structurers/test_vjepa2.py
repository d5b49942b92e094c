import pytest
import torch
from torchvision.transforms import InterpolationMode, Normalize, Resize
from transformers import VJEPA2Model

from vipo.registry import ConfigError
from vipo.structurers import Allocator, FeatureNormAllocator, MotionAllocator, PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import VJEPA2Backbone
from vipo.structurers.backbones.twins import save_twin

PATCH = 16
imagenet = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


class FirstChannel(Allocator):
    def __call__(self, features, cls_attention=None):
        return features[:, :, 0] - features[:, :, 0].amin()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return save_twin('vjepa2', tmp_path_factory.mktemp('vjepa2'))


@pytest.fixture(scope='module')
def backbone(folder):
    """As the library has it: nothing taken off."""
    return VJEPA2Backbone(folder, steady=False)


@pytest.fixture(scope='module')
def blind(tmp_path_factory):
    """Heads too narrow for any rotary embedding: a model without positions."""
    return VJEPA2Backbone(save_twin('vjepa2', tmp_path_factory.mktemp('blind'), hidden_size=20, num_attention_heads=5))


@pytest.fixture
def clips(normal):
    return lambda frames, height, width: normal(2, 3, frames, height, width).sigmoid()


def prepared(clips):
    """``(B, T, C, H, W)``, as the library wants clips."""
    return torch.stack([torch.stack([imagenet(clip[:, f]) for f in range(clip.shape[1])]) for clip in clips])


def in_time_and_space(tokens, frames, height, width):
    """Tokens frame by frame and row by row, without reshaping tricks."""
    size = height * width
    each = [tokens[:, t * size : (t + 1) * size] for t in range(frames)]
    return torch.stack([torch.stack([f[:, y * width : (y + 1) * width].mT for y in range(height)], 2) for f in each], 1)


@pytest.mark.parametrize('frames', [2, 8])
@torch.no_grad()
def test_features_are_the_librarys_at_its_own_size(backbone, folder, clips, frames):
    """At crop_size the library numbers positions rightly."""
    x = clips(frames, 64, 64)
    tokens = VJEPA2Model.from_pretrained(folder).eval()(prepared(x), skip_predictor=True).last_hidden_state
    found = backbone(x)
    assert found.map.shape == (2, frames // 2, 24, 4, 4)
    assert found.spans == (2,) * (frames // 2)
    torch.testing.assert_close(found.map, in_time_and_space(tokens, frames // 2, 4, 4), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(('height', 'width'), [(2, 3), (3, 2), (1, 4)])
@torch.no_grad()
def test_positions_on_another_grid(backbone, folder, clips, height, width):
    """The library's blocks, told the position of each token on its own grid of 4 x 4 by the masks of its predictor."""
    x = clips(6, height * PATCH, width * PATCH)
    encoder = VJEPA2Model.from_pretrained(folder).eval().encoder
    places = [t * 16 + r * 4 + c for t in range(3) for r in range(height) for c in range(width)]
    hidden = encoder.embeddings(prepared(x))
    for block in encoder.layer:
        hidden = block(hidden, torch.tensor([places, places]))[0]
    wanted = in_time_and_space(encoder.layernorm(hidden), 3, height, width)
    torch.testing.assert_close(backbone(x).map, wanted, atol=1e-4, rtol=1e-4)
    # What the library does itself there is something else.
    own = in_time_and_space(encoder(prepared(x)).last_hidden_state, 3, height, width)
    assert (own - wanted).abs().max() > 1e-2


@torch.no_grad()
def test_sizes_are_resized_and_not_cropped(backbone, folder, clips):
    x = clips(2, 61, 70)
    resize = Resize((64, 64), InterpolationMode.BICUBIC, antialias=True)
    resized = torch.stack([resize(clip.transpose(0, 1)).transpose(0, 1) for clip in x]).clamp(0, 1)
    torch.testing.assert_close(backbone(x).map, backbone(resized).map, atol=1e-3, rtol=1e-3)
    blank = torch.full((1, 3, 2, 48, 68), 0.5)
    edge = blank.clone()
    edge[..., 64:] = 1.0
    moved = (backbone(edge).map - backbone(blank).map).norm(dim=2).mean((0, 1, 2))
    assert moved.argmax() == len(moved) - 1 == 3


@pytest.mark.parametrize(('frames', 'spans'), [(1, (1,)), (2, (2,)), (5, (1, 2, 2)), (53, (1, *[2] * 26))])
@torch.no_grad()
def test_every_frame_counts_once(backbone, clips, frames, spans):
    """Where frames are odd in number the first one stands twice; none is dropped."""
    x = clips(frames, 32, 32)
    found = backbone(x)
    assert found.spans == spans
    doubled = torch.cat([x[:, :, :1], x], dim=2) if frames % 2 else x
    assert torch.equal(found.map, backbone(doubled).map)
    for frame in {0, 1 % frames, frames - 1}:
        other = x.clone()
        other[:, :, frame] = 1 - other[:, :, frame]
        change = (backbone(other).map - found.map).norm(dim=2).mean((0, 2, 3))
        owner = next(k for k in range(len(spans)) if sum(spans[: k + 1]) > frame)
        assert change.argmax() == owner


@torch.no_grad()
def test_patches_move_with_the_clip(blind, clips):
    """Without positions: rolled by whole patches, and by whole tubelets."""
    x = clips(6, 32, 48)
    one, other = blind(x).map, blind(x.roll((4, 16, 16), (2, 3, 4))).map
    torch.testing.assert_close(other, one.roll((2, 1, 1), (1, 3, 4)), atol=1e-4, rtol=1e-4)
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize('frames', [5, 53])
@pytest.mark.parametrize(
    'allocator', [PCAAllocator(), FeatureNormAllocator(), MotionAllocator()], ids=lambda a: type(a).__name__
)
def test_still_clip_gives_a_still_map(folder, backbone, blind, clips, frames, allocator):
    """With position embeddings and without; what the encoder itself makes of a still clip flickers."""
    x = clips(1, 32, 48).expand(-1, -1, frames, -1, -1)
    grid = (frames - 1) // 4 + 1, 4, 6

    def flicker(backbone):
        maps = PerceptualStructurer(backbone, allocator)(x, grid)
        assert maps.std() > 0.1 or isinstance(allocator, MotionAllocator)
        return (maps - maps[:, :, :1]).abs().max()

    steady = flicker(VJEPA2Backbone(folder))
    assert max(steady, flicker(blind)) < 1e-3
    assert flicker(backbone) > 10 * steady


@torch.no_grad()
def test_what_is_taken_off_is_what_time_alone_does(folder, backbone, clips):
    """By hand: the mean frame standing still; what a clip shows stays."""
    x = clips(6, 32, 48)
    still = backbone(x.mean(2, keepdim=True).expand_as(x)).map
    wanted = backbone(x).map - (still - still.mean(1, keepdim=True))
    found = VJEPA2Backbone(folder)(x).map
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (found - found.mean(1, keepdim=True)).norm() > 0.5 * (backbone(x).map - backbone(x).map.mean(1, True)).norm()
    assert torch.equal(VJEPA2Backbone(folder)(x[:, :, :1]).map, backbone(x[:, :, :1]).map), 'one feature frame'


def test_feature_frames_lie_within_latent_frames(backbone, clips):
    """13 frames are 7 feature frames and 4 latent frames: 0, then 1 and 2, 3 and 4, 5 and 6."""
    x = clips(13, 32, 48)
    maps = PerceptualStructurer(backbone, FirstChannel(), normalize='minmax')(x, (4, 2, 3))
    raw = FirstChannel()(backbone(x).map)
    wanted = torch.stack([raw[:, 0], *((raw[:, 2 * k - 1] + raw[:, 2 * k]) / 2 for k in (1, 2, 3))], dim=1)
    torch.testing.assert_close(maps[:, 0], wanted, atol=1e-4, rtol=1e-4)


def test_map_follows_what_happens_in_time(backbone):
    """A square that is there in the last four frames of nine."""
    x = torch.full((1, 3, 9, 64, 64), 0.2)
    x[:, :, 5:, 16:32, 32:48] = torch.tensor([0.9, 0.5, 0.1]).reshape(1, 3, 1, 1, 1)
    features = backbone(x).map[0]
    before, after = features[1:3], features[3:]
    change = (after.mean(0) - before.mean(0)).norm(dim=0)
    assert change.argmax() == 1 * 4 + 2


def test_clips_per_batch(folder, clips):
    x = clips(5, 32, 32).repeat(2, 1, 1, 1, 1)
    x[2:] = 1 - x[2:]
    seen = []

    class Watched(VJEPA2Backbone):
        def __call__(self, pixels):
            seen.append(len(pixels))
            return super().__call__(pixels)

    maps = [PerceptualStructurer(Watched(folder), PCAAllocator(), frames_per_batch=n)(x, (2, 2, 2)) for n in (4, 15)]
    assert seen == [1, 1, 1, 1, 3, 1]
    torch.testing.assert_close(*maps, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'cls_attention': True}, 'V-JEPA 2 has no CLS token'),
        ({'layer': 5}, 'the model has 2 blocks'),
        ({'input_size': 32, 'max_tokens': 4}, 'both say how large'),
    ],
)
def test_what_cannot_be_is_said(folder, options, words):
    with pytest.raises(ValueError, match=words):
        VJEPA2Backbone(folder, **options)


@torch.no_grad()
def test_options(folder, backbone, clips):
    x = clips(4, 64, 96)
    assert VJEPA2Backbone(folder, max_tokens=6)(x).map.shape == (2, 2, 24, 2, 3)
    assert VJEPA2Backbone(folder, input_size=32)(x).map.shape == (2, 2, 24, 2, 3)
    half = VJEPA2Backbone(folder, steady=False, dtype='bfloat16')
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in half.model.parameters())
    exact, found = backbone(x).map, half(x).map
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.1 * exact.norm()
    encoder = VJEPA2Model.from_pretrained(folder).eval().encoder
    first = encoder.layer[0](encoder.embeddings(prepared(x[..., :64])), None)[0]
    wanted = in_time_and_space(encoder.layernorm(first), 2, 4, 4)
    torch.testing.assert_close(
        VJEPA2Backbone(folder, layer=0, steady=False)(x[..., :64]).map, wanted, atol=1e-4, rtol=1e-4
    )


def test_features_that_are_not_finite_name_the_backbone(folder, clips):
    broken = VJEPA2Backbone(folder)
    broken.model.layernorm.weight.data[3] = torch.nan
    with pytest.raises(ConfigError, match='VJEPA2Backbone returned features that are not finite'):
        PerceptualStructurer(broken, PCAAllocator())(clips(5, 32, 32), (2, 2, 2))
