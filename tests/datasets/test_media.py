import numpy as np
import pytest
from PIL import Image

from vipo.datasets.media import CLIPS, PICTURES, describe_clip, find_files, read_clip, read_picture
from vipo.registry import ConfigError
from vipo.visualization.samples import write_mp4


@pytest.fixture
def picture(tmp_path):
    def write(name='a.png', size=(6, 4), mode='RGB', color=(10, 20, 30), **options):
        Image.new(mode, size, color).save(tmp_path / name, **options)
        return tmp_path / name

    return write


def test_files_of_folders_patterns_and_names_in_order(tmp_path, picture):
    for name in ('b.png', 'a.png', 'c.JPG', 'notes.txt', 'clip.mp4'):
        (tmp_path / name).touch()
    (tmp_path / 'deeper').mkdir()
    picture('deeper/d.png')

    def names(*places):
        return [p.name for p in find_files([str(tmp_path / p) for p in places], PICTURES)]

    assert names('.') == ['a.png', 'b.png', 'c.JPG']
    assert names('?.png') == ['a.png', 'b.png']
    assert names('**/*.png') == ['a.png', 'b.png', 'd.png']
    assert names('b.png', 'a.png') == ['b.png', 'a.png'], 'as they were named'
    assert names('notes.txt') == ['notes.txt'], 'what is named itself is taken'
    assert [p.name for p in find_files([str(tmp_path)], CLIPS)] == ['clip.mp4']
    with pytest.raises(ConfigError, match=r'x\.png.* does not exist'):
        names('x.png')
    with pytest.raises(ConfigError, match=r'holds no \.mp4'):
        find_files([str(tmp_path / 'deeper')], CLIPS)
    with pytest.raises(ConfigError, match=r'a\.png.* is given twice'):
        names('.', 'a.png')


@pytest.mark.parametrize(('mode', 'color'), [('RGB', (10, 20, 30)), ('RGBA', (10, 20, 30, 0)), ('P', None), ('L', 20)])
def test_picture_becomes_rgb(tmp_path, mode, color):
    image = Image.new('RGB', (6, 4), (10, 20, 30)).quantize() if mode == 'P' else Image.new(mode, (6, 4), color)
    image.save(tmp_path / 'a.png')
    read = read_picture(tmp_path / 'a.png')
    assert read.shape == (1, 4, 6, 3)
    assert read.dtype == np.uint8
    assert (read == ([20] * 3 if mode == 'L' else [10, 20, 30])).all()


def test_picture_that_cannot_be_read(tmp_path, picture):
    whole = picture(size=(64, 64)).read_bytes()
    (tmp_path / 'cut.png').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'text.png').write_text('no picture')
    frames = [Image.new('RGB', (4, 4), c) for c in ('red', 'blue')]
    frames[0].save(tmp_path / 'moving.gif', save_all=True, append_images=frames[1:])
    Image.new('I;16', (4, 4)).save(tmp_path / 'deep.png')
    for name, words in [('cut', ''), ('text', 'identify'), ('moving', 'animated'), ('deep', '8 bits')]:
        path = next(tmp_path.glob(f'{name}.*'))
        with pytest.raises(ConfigError, match=f'{path.name} cannot be read as a picture: .*{words}'):
            read_picture(path)


def test_clip_frames_by_index(tmp_path):
    """Frame k of the clip is a grey of 20 k."""
    clip = np.repeat(np.arange(10, dtype=np.uint8)[None, :, None, None] * 20, 3, axis=0)
    write_mp4(np.broadcast_to(clip, (3, 10, 32, 64)), tmp_path / 'a.mp4', 8)
    total, fps, size = describe_clip(tmp_path / 'a.mp4')
    assert (total, size) == (10, (32, 64))
    assert fps == pytest.approx(8)
    frames = read_clip(tmp_path / 'a.mp4', [0, 4, 9])
    assert frames.shape == (3, 32, 64, 3)
    assert frames.mean((1, 2, 3)) == pytest.approx([0, 80, 180], abs=5)


def test_clip_that_cannot_be_read(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'no clip' * 100)
    for read in (describe_clip, lambda path: read_clip(path, [0])):
        with pytest.raises(ConfigError, match=r'a\.mp4 cannot be read as a clip: [^\n]*$'):
            read(tmp_path / 'a.mp4')
