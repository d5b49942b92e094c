"""Maps of clips: which frames are seen, what belongs to which latent frame, and that nothing flickers."""

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from tests.structurers.conftest import Brightness, Patches, Tubelets
from vipo.structurers import FeatureNormAllocator, PCAAllocator, PerceptualStructurer


def test_clip_of_feature_frames_by_hand():
    """Nine frames of brightness (t + 1) / 10 as feature frames 1 | 2 3 | 4 5 | 6 7 | 8 9, on three latent frames.

    Latent frames are 1 | 2 .. 5 | 6 .. 9, as if every frame had features of its own.
    """
    pixels = torch.zeros(1, 3, 9, 8, 16)
    pixels[..., :8] = torch.arange(1.0, 10.0).reshape(1, 1, 9, 1, 1) / 10
    structurer = PerceptualStructurer(Tubelets(), Brightness(), normalize='minmax')
    wanted = torch.tensor([0.1, 0.35, 0.75]).reshape(1, 1, 3, 1, 1) * torch.tensor([1.0, 1, 0, 0])
    torch.testing.assert_close(structurer(pixels, (3, 2, 4)), wanted.expand(1, 1, 3, 2, 4))
    assert structurer.counts == {'frames': 9, 'constant': 0, 'broken': 0}
    # Four latent frames of nine pixel frames would belong to no causal autoencoder.
    with pytest.raises(ValueError, match='causal'):
        structurer(pixels, (4, 2, 4))


@pytest.mark.parametrize('options', [{}, {'frames': 'latent'}, {'temporal_sigma': 1.0}], ids=str)
@pytest.mark.parametrize('backbone', [Patches, Tubelets])
@pytest.mark.parametrize('frames', [1, 5, 53])
def test_still_clip_gives_a_still_map(pixels, frames, backbone, options):
    clip = pixels(2, 1, 16, 24).expand(-1, -1, frames, -1, -1)
    for allocator in (PCAAllocator(), FeatureNormAllocator()):
        maps = PerceptualStructurer(backbone(), allocator, **options)(clip, ((frames - 1) // 4 + 1, 4, 6))
        torch.testing.assert_close(maps, maps[:, :, :1].expand_as(maps), atol=1e-5, rtol=1e-5)
        assert maps.std() > 0.1


def test_one_frame_per_latent_frame(pixels):
    """The backbone sees frames 0, 4 and 8 of nine, and the map is theirs."""
    backbone, clip = Patches(), pixels(2, 9, 32, 24)
    few = PerceptualStructurer(backbone, PCAAllocator(), frames='latent')(clip, (3, 8, 6))
    assert backbone.batches == [6]
    chosen = PerceptualStructurer(Patches(), PCAAllocator())(clip[:, :, [0, 4, 8]], (3, 8, 6))
    torch.testing.assert_close(few, chosen)
    picture = pixels(1, 1, 32, 24)
    same = [PerceptualStructurer(Patches(), PCAAllocator(), frames=f)(picture, (1, 8, 6)) for f in ('all', 'latent')]
    assert torch.equal(*same)
    with pytest.raises(ValueError, match='do not belong'):
        PerceptualStructurer(Patches(), PCAAllocator(), frames='latent')(clip, (4, 8, 6))


@pytest.mark.parametrize('sigma', [0.5, 2.0])
def test_smoothing_in_time_is_scipys(pixels, sigma):
    clip = pixels(1, 9, 32, 24)
    raw = PerceptualStructurer(Patches(), Brightness(), normalize='minmax')(clip, (9, 8, 6))
    smooth = PerceptualStructurer(Patches(), Brightness(), normalize='minmax', temporal_sigma=sigma)(clip, (9, 8, 6))
    expected = gaussian_filter1d(raw[0, 0].double().numpy(), sigma, axis=0, mode='reflect')
    torch.testing.assert_close(smooth[0, 0].double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_frames_that_do_not_fit_the_latents(pixels):
    with pytest.raises(ValueError, match='causal'):
        PerceptualStructurer(Patches(), PCAAllocator())(pixels(1, 8, 16, 16), (3, 4, 4))
