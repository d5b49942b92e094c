import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, resize
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vipo.rewards.qwen2_vl_frames import frame_indices, frame_size, patchify, resize_frames


@pytest.mark.parametrize(
    ('frames', 'fps', 'count'), [(53, 8, 14), (33, 8, 8), (81, 16, 10), (49, 24, 4), (53, 16, 6), (5, 8, 4), (3, 8, 2)]
)
def test_number_of_frames(frames, fps, count):
    """Five published cases, and clips too short for the usual four."""
    index = frame_indices(frames, fps)
    assert len(index) == count
    assert (index[0], index[-1]) == (0, frames - 1)
    assert index.diff().min() >= 1


def test_frames_of_the_papers_clip():
    """53 frames: 52 / 13 = 4 apart."""
    assert frame_indices(53, 8).tolist() == list(range(0, 53, 4))


def test_halves_round_to_even():
    """20 frames at 8 a second are 5 at 2 a second, half way between 4 and 6."""
    assert len(frame_indices(20, 8)) == 4
    assert len(frame_indices(28, 8)) == 8


@pytest.mark.parametrize(('frames', 'fps'), [(1, 8), (53, 0), (53, -1)])
def test_clips_that_cannot_be_sampled(frames, fps):
    with pytest.raises(ValueError, match=r'at least 2 frames|positive'):
        frame_indices(frames, fps)


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((240, 416), (252, 420)),
        ((480, 832), (336, 588)),
        ((480, 480), (448, 448)),
        ((512, 512), (448, 448)),
        ((416, 240), (420, 252)),
    ],
)
def test_published_sizes(size, expected):
    assert frame_size(*size, 128 * 28 * 28, 256 * 28 * 28) == expected


@pytest.mark.parametrize('size', [(17, 900), (28, 28), (1080, 1920), (333, 335), (64, 64), (2000, 30)])
@pytest.mark.parametrize('bounds', [(128 * 28 * 28, 256 * 28 * 28), (200704, 200704), (56 * 56, 10**7)])
def test_sizes_are_the_librarys(size, bounds):
    assert frame_size(*size, *bounds) == smart_resize(*size, 28, *bounds)


def test_narrow_frames_are_refused():
    with pytest.raises(ValueError, match='too narrow'):
        frame_size(10, 2001, 100, 200)


def test_patches_are_the_librarys(normal):
    """A clip as a processor of the library cuts it, frame by frame in time and two by two in space."""
    frames = (normal(2, 3, 3, 56, 84).sigmoid() * 255).round()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    processor = Qwen2VLImageProcessorPil(image_mean=mean.tolist(), image_std=std.tolist(), min_pixels=28**2)
    ours, grid = patchify((frames / 255 - mean[:, None, None]) / std[:, None, None])
    assert grid.tolist() == [[2, 4, 6]] * 2
    # The library's picture is a clip of one frame shown twice: so pair equal frames here.
    for frame in range(3):
        still = frames[:, frame].byte()
        theirs = processor([p.permute(1, 2, 0).numpy() for p in still], return_tensors='pt')
        twice = patchify(((still / 255 - mean[:, None, None]) / std[:, None, None])[:, None])
        torch.testing.assert_close(twice[0], theirs['pixel_values'], atol=1e-5, rtol=0)
        assert torch.equal(twice[1], theirs['image_grid_thw'])
    rows = ours.reshape(2, 2, 24, 3, 2, 14, 14)
    first = patchify(((frames[:, :1] / 255) - mean[:, None, None]) / std[:, None, None])[0].reshape(2, 24, 3, 2, 14, 14)
    second = patchify(((frames[:, 1:2] / 255) - mean[:, None, None]) / std[:, None, None])[0].reshape(first.shape)
    torch.testing.assert_close(rows[:, 0, :, :, 0], first[:, :, :, 0])
    torch.testing.assert_close(rows[:, 0, :, :, 1], second[:, :, :, 0])
    torch.testing.assert_close(rows[:, 1, :, :, 0], rows[:, 1, :, :, 1])


def test_resize_is_torchvisions_of_8_bit_frames(normal):
    frames = (normal(2, 3, 60, 90).sigmoid() * 255).round()
    ours = resize_frames(frames / 255, (56, 84)) * 255
    theirs = resize(frames.byte(), [56, 84], InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(ours, ours.round())
    # torchvision computes with 16-bit weights
    assert (ours - theirs.float()).abs().max() <= 1
    assert (ours - theirs.float()).abs().mean() < 0.02


def test_gradient_passes_the_levels(normal):
    x = normal(1, 3, 30, 40).sigmoid().requires_grad_()
    resize_frames(x, (28, 28)).sum().backward()
    # each new pixel is a weighted mean of the old ones
    assert x.grad.sum().item() == pytest.approx(3 * 28 * 28, rel=1e-4)


def test_resize_of_pictures_is_pillows(normal):
    pictures = (normal(2, 3, 60, 90).sigmoid() * 255).round()
    ours = resize_frames(pictures / 255, (84, 56), pillow=True) * 255
    images = [Image.fromarray(p.byte().permute(1, 2, 0).numpy()).resize((56, 84), Image.BICUBIC) for p in pictures]
    theirs = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
