import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from vipo.visualization import before_after, map_overlays, reward_curve, to_pixels
from vipo.visualization.canvas import INK, Canvas, wrapped

RED, BLUE = (255, 0, 0), (0, 0, 255)


def solid(color, count=1, frames=1, height=16, width=16):
    return np.broadcast_to(np.array(color, np.uint8).reshape(1, 3, 1, 1, 1), (count, 3, frames, height, width))


def read(path):
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return np.asarray(image.convert('RGB')).astype(int)


def where(sheet, color, tolerance=0):
    """Rows and columns of the pixels of one colour, and their number."""
    rows, columns = np.nonzero(np.abs(sheet - np.array(color)).max(-1) <= tolerance)
    return rows, columns, len(rows)


def sheet_of(path, before, after, columns=6):
    count = len(before)
    before_after([f'prompt {i}' for i in range(count)], before, after, [('1.0', '2.0')] * count, path, 'title', columns)
    return read(path)


def test_before_is_above_after(tmp_path):
    sheet = sheet_of(tmp_path / 'pairs.png', solid(RED), solid(BLUE))
    (red, left, reds), (blue, right, blues) = where(sheet, RED), where(sheet, BLUE)
    assert reds == blues == 128 * 128
    assert red.max() < blue.min()
    assert (left.min(), left.max()) == (right.min(), right.max())


def test_every_pair_is_on_the_sheet(tmp_path):
    sheet = sheet_of(tmp_path / 'pairs.png', solid(RED, 5), solid(BLUE, 5), columns=2)
    assert where(sheet, RED)[2] == where(sheet, BLUE)[2] == 5 * 128 * 128
    assert sheet.shape[1] < 3 * 150
    assert sheet.shape[0] > 3 * 2 * 128


def test_words_are_written(tmp_path):
    sheet = sheet_of(tmp_path / 'pairs.png', solid(RED), solid(BLUE))
    dark = (sheet.max(-1) < 120).sum()
    assert dark > 100


def test_clip_shows_its_middle_frame_and_wide_ones_keep_their_shape(tmp_path):
    clip = solid(RED, 1, 3, 16, 32).copy()
    clip[:, :, 1] = np.array(BLUE).reshape(1, 3, 1, 1)
    sheet = sheet_of(tmp_path / 'pairs.png', clip, clip)
    assert where(sheet, RED)[2] == 0
    assert where(sheet, BLUE)[2] == 2 * 128 * 64


def test_overlay_is_bright_where_the_map_is_high(tmp_path):
    maps = torch.zeros(1, 1, 1, 8, 8)
    maps[..., 4:] = 3.0
    map_overlays(['a prompt'], solid((200, 200, 200)), maps, tmp_path / 'maps.png', 'title')
    sheet = read(tmp_path / 'maps.png')
    rows, columns, count = where(sheet, (200, 200, 200))
    picture_left, top = columns.min(), rows.min()
    assert count > 128 * 128
    panels = [sheet[top : top + 128, picture_left + k * 138 : picture_left + k * 138 + 128] for k in range(3)]
    assert (panels[0] == 200).all()
    for panel, high, low in ((panels[1], 150, 60), (panels[2], 195, 40)):
        assert panel[:, 90:].mean() > high
        assert panel[:, :40].mean() < low


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_overlay_of_a_flat_map(tmp_path, value):
    maps = torch.full((2, 1, 3, 4, 6), value)
    map_overlays(['a', 'b'], solid(RED, 2, 9, 16, 24), maps, tmp_path / 'maps.png', 'title', columns=1)
    sheet = read(tmp_path / 'maps.png')
    assert sheet.shape[0] > 2 * 128
    assert where(sheet, RED)[2] >= (2 if value == 0 else 4) * 128 * 85


def curve(path, evaluations, count=40):
    history = [
        {'iteration': i, 'reward': 0.1 + 0.01 * i, 'reward_std': 0.02, 'clipped_fraction': 0.1 + 0.001 * i}
        for i in range(count)
    ]
    reward_curve(history, evaluations, path, 'title')
    return read(path)


def test_curve_shows_rollouts_evaluations_and_clipping(tmp_path):
    blue, orange, red = (31, 119, 180), (255, 127, 14), (214, 39, 40)
    sheet = curve(tmp_path / 'curve.png', {0: {'reward': 0.1, 'other': 9.0}, 40: {'reward': 0.5, 'other': 9.0}})
    assert sheet.shape == (720, 960, 3)
    assert all(where(sheet, color, 12)[2] > 200 for color in (blue, orange, red))
    assert where(sheet, red, 12)[0].min() > where(sheet, orange, 12)[0].max()
    without = curve(tmp_path / 'curve.png', {})
    assert where(without, orange, 12)[2] == 0
    rows, columns, _ = where(without, blue, 12)
    right, left = (rows[(columns > low) & (columns < low + 100)].mean() for low in (800, 400))
    assert right < left - 50


@pytest.mark.parametrize('count', [1, 3])
def test_curve_of_a_short_run(tmp_path, count):
    assert curve(tmp_path / 'curve.png', {0: {'reward': 0.1}}, count).std() > 5


def test_to_pixels():
    pixels = to_pixels(solid((0, 51, 255)).copy())
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 0, 0, 0], torch.tensor([0, 0.2, 1]))


def test_text_stays_in_its_place(tmp_path):
    """A prompt of real length neither meets its neighbour nor runs into what lies below."""
    sheet = Canvas(200, 120)
    words = 'an extraordinarily detailed photograph of a lighthouse in a storm, ' * 5
    sheet.text(words, 10, 10, size=11, width=100, height=60)
    rows, columns, count = where(np.asarray(sheet.image).astype(int), INK, 60)
    assert count > 300
    assert columns.min() >= 10 and columns.max() < 110
    assert rows.min() >= 10 and rows.max() < 70


def test_lines_are_as_wide_as_they_may_be():
    font = ImageFont.load_default(11)
    words = 'a small orange circle at the right on a dotted navy background'
    lines = wrapped(words, 128, font)
    assert ' '.join(lines) == words
    assert all(font.getlength(line) <= 128 for line in lines)
    following = [line.split()[0] for line in lines[1:]]
    assert all(font.getlength(f'{a} {b}') > 128 for a, b in zip(lines, following, strict=False))
    cut = wrapped(words, 128, font, most=2)
    assert len(cut) == 2 and cut[-1].endswith('…') and cut[0] == lines[0]
    assert font.getlength(cut[-1]) <= 128
    assert wrapped('', 128, font) == []


def test_words_wider_than_a_line_are_broken():
    """A sentence in Chinese has no spaces, and a file name none either."""
    font = ImageFont.load_default(11)
    for words in ('一只橙色的小圆圈在深蓝色圆点背景的右边' * 2, 'a' + 'https://example.org/a/very/long/name.png' * 2):
        lines = wrapped(words, 128, font)
        assert ''.join(lines) == words and len(lines) > 1
        assert all(font.getlength(line) <= 128 for line in lines)
        cut = wrapped(words, 128, font, most=1)
        assert len(cut) == 1 and cut[0].endswith('…') and font.getlength(cut[0]) <= 128
