"""``frames_per_batch``: how much is worked on at a time, and so how much memory a map takes."""

import pytest
import torch
import torch.nn.functional as F

from tests.structurers.conftest import Patches, Tubelets
from vipo.engine.measure import PeakMemory
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features


def test_frames_per_batch_does_not_change_the_result(pixels):
    batch = pixels(3, 5, 16, 16)
    small, large = Patches(), Patches()
    maps = PerceptualStructurer(small, PCAAllocator(), frames_per_batch=4)(batch, (2, 4, 4))
    torch.testing.assert_close(maps, PerceptualStructurer(large, PCAAllocator())(batch, (2, 4, 4)), atol=1e-6, rtol=0)
    assert small.batches == [4, 1] * 3, 'a clip at a time, and of it four frames at a time'
    assert large.batches == [15]


def test_clips_go_whole_and_as_many_as_their_frames_allow(pixels):
    backbone, batch = Tubelets(), pixels(5, 4, 16, 16)
    maps = PerceptualStructurer(backbone, PCAAllocator(), frames_per_batch=9)(batch, (4, 4, 4))
    assert backbone.batches == [(2, 3, 4), (2, 3, 4), (1, 3, 4)]
    alone = PerceptualStructurer(Tubelets(), PCAAllocator(), frames_per_batch=1)(batch, (4, 4, 4))
    torch.testing.assert_close(maps, alone, atol=1e-5, rtol=0)


class Wide(Backbone):
    """256 features for each patch of 4 x 4: more than five times what the pixels take."""

    def __init__(self):
        self.weight = torch.randn(256, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def __call__(self, pixels):
        return Features(F.conv2d(pixels, self.weight, stride=4))


@pytest.mark.parametrize(
    ('samples', 'frames', 'grid'), [(12, 1, (1, 8, 8)), (3, 9, (3, 8, 8))], ids=['images', 'clips']
)
def test_memory_is_bounded_by_frames_per_batch_and_not_by_the_samples(pixels, samples, frames, grid):
    """What is held at once, beside the pixels: a multiple of the features of as many frames as are worked on."""
    held = {}
    for number in (samples, 4 * samples):
        for together in (frames, 3 * frames):
            structurer = PerceptualStructurer(Wide(), PCAAllocator(), frames_per_batch=together)
            batch = pixels(number, frames, 32, 32)
            with PeakMemory() as memory:
                structurer(batch, grid)
            held[number, together] = memory.peak
    features = 256 * 8 * 8 * 4
    for (_, together), peak in held.items():
        assert features * together < peak < 8 * features * together
    assert held[4 * samples, frames] < 1.05 * held[samples, frames], 'more samples take no more but their finished maps'
    assert held[samples, 3 * frames] > 2 * held[samples, frames], 'or the measure sees nothing'


def test_frames_are_copied_a_batch_at_a_time(pixels):
    """Clips lie in memory colour by colour: their frames are taken out as they are needed."""

    class Small(Backbone):
        def __call__(self, pixels):
            return Features(pixels[..., ::8, ::8])

    batch = pixels(2, 33, 64, 64)
    structurer = PerceptualStructurer(Small(), PCAAllocator(), frames_per_batch=4)
    with PeakMemory() as memory:
        structurer(batch, (9, 8, 8))
    assert memory.peak < batch.nbytes / 4
