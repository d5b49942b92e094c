"""The tools that draw, compare and time maps."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.conftest import ROOT
from tools.show_map import _components as components_of_middle
from tools.show_map import _distinct as distinct
from tools.show_map import _stride as generator_stride
from tools.show_map import main as show_map
from tools.study_maps import main as study_maps
from tools.study_maps import measure
from vipo.datasets.media import read_clip
from vipo.engine.config import read_config
from vipo.rewards import HPSReward
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import Backbone, Features
from vipo.visualization.canvas import _font_file as font_file
from vipo.visualization.canvas import _glyphs as glyphs
from vipo.visualization.canvas import text_width
from vipo.visualization.maps import map_clip
from vipo.visualization.panels import coloured, component_colours, histogram, lit
from vipo.visualization.samples import write_mp4

TINY = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')


@pytest.fixture
def scene(tmp_path):
    """A picture of 48 x 96 with a red square at the right."""
    pixels = np.full((48, 96, 3), 120, dtype=np.uint8)
    pixels[16:32, 64:80] = (220, 40, 40)
    Image.fromarray(pixels).save(tmp_path / 'scene.png')
    return tmp_path / 'scene.png'


def config(tmp_path, name, structurer):
    path = tmp_path / f'{name}.py'
    path.write_text(f"_base_ = ['{TINY}']\nstructurer = dict(_delete_=True, {structurer})\n")
    return str(path)


def test_pictures_without_training(scene, tmp_path, capsys):
    reward = config(tmp_path, 'reward', "type='RewardAttributionStructurer'")
    texts = ['a small red square at the right on a plain gray background']
    out = tmp_path / 'maps'
    assert show_map([TINY, reward, '--images', str(scene), '--texts', *texts, '--out', str(out)]) == 0
    assert 'maps of 1 by vipo_tiny_sd3, reward' in capsys.readouterr().out
    sheet = np.asarray(Image.open(out / 'maps.png')).astype(int)
    # the panel after the picture is the first structurer's map: dark, and bright around the square
    cell, top = 186, 74
    panel = sheet[top : top + 88, 10 + cell : 10 + cell + 176].sum(-1)
    assert panel[44, 132] > 3 * panel[44, 30]


def test_pictures_of_the_configs_own_generator(tmp_path, capsys):
    out = tmp_path / 'maps'
    assert show_map([TINY, '--prompts', 'a red ring', 'a blue square', '--limit', '1', '--out', str(out)]) == 0
    assert (out / 'maps.png').exists()
    assert not list(out.glob('*.mp4'))
    said = capsys.readouterr().out
    assert 'the first 1 of 2 prompts are shown' in said
    assert 'on latent grids (T x H x W) 1 x 16 x 16;' in said, 'that of its own autoencoder'
    assert show_map([TINY, '--prompts', 'a ring', '--stride', '4', '8', '--out', str(out)]) == 0
    assert '1 x 8 x 8' in capsys.readouterr().out


def test_rehearsal_draws_prompts_by_a_twin(tmp_path, capsys):
    path = str(ROOT / 'configs/vipo_flux_hps.py')
    assert show_map([path, '--rehearse', '--prompts', 'a ring', '--out', str(tmp_path / 'maps')]) == 0
    assert 'maps of 1 by vipo_flux_hps' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['vipo_flux_hps'], (4, 8)),
        (['_base_/structurers/dinov2_pca', 'vipo_wan22_5b_videoalign'], (4, 16)),
        (['vipo_hunyuan_videoalign'], (4, 8)),
        (['vipo_tiny_sd3', 'vipo_wan_videoalign'], (4, 4)),
        (['_base_/structurers/dinov2_pca'], None),
    ],
)
def test_grid_of_the_generator(names, expected):
    """Strides as the model cards of the autoencoders give them; the embedded one halves a picture twice."""
    assert generator_stride([read_config(ROOT / 'configs' / f'{name}.py') for name in names]) == expected


def test_reward_that_a_map_is_made_of_is_moved_with_it(scene, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(HPSReward, 'to', lambda self, device: moved.append(device) or self)
    reward = config(tmp_path, 'reward', "type='RewardAttributionStructurer'")
    assert show_map([reward, '--images', str(scene), '--texts', 'a', '--out', str(tmp_path / 'x')]) == 0
    assert torch.device('cpu') in moved


def test_one_sample_that_has_no_map_leaves_the_others(scene, tmp_path, capsys):
    Image.new('RGB', (3, 3)).save(tmp_path / 'speck.png')
    wide = np.zeros((40, 2000, 3), dtype=np.uint8)
    wide[:, ::50] = 255
    Image.fromarray(wide).save(tmp_path / 'wide.png')
    files = [str(tmp_path / name) for name in ('speck.png', 'wide.png', 'scene.png')]
    assert show_map([TINY, '--images', *files, '--out', str(tmp_path / 'maps')]) == 1
    said = capsys.readouterr()
    assert 'left out: speck.png: cannot take 3 principal components' in said.err
    assert 'maps of 2 by vipo_tiny_sd3' in said.out
    assert (tmp_path / 'maps' / 'maps.png').exists()


def test_equal_names_are_told_apart(scene, tmp_path):
    (tmp_path / 'more').mkdir()
    paths = [scene, tmp_path / 'more' / 'scene.png', tmp_path / 'other.png']
    assert distinct(paths) == [f'{tmp_path.name}/scene.png', 'more/scene.png', 'other.png']


def test_floor_that_changes_is_drawn_where_it_is_asked_for(scene, tmp_path, capsys):
    inner = "dict(type='PriorStructurer', prior='center')"
    path = config(tmp_path, 'mine', f"type='BlendedStructurer', floor=1.0, end=0.0, structurer={inner}")
    tops = []
    for more in ([], ['--at', '1']):
        assert show_map([path, '--images', str(scene), '--out', str(tmp_path / 'maps'), *more]) == 0
        sheet = np.asarray(Image.open(tmp_path / 'maps' / 'maps.png')).astype(int)
        tops.append(np.ptp(sheet[74 : 74 + 88, 196 : 196 + 176].sum(-1)))
        assert ('--at 1 shows its end' in capsys.readouterr().out) == (not more)
    assert tops[0] == 0, 'ones at the beginning'
    assert tops[1] > 300
    with pytest.raises(SystemExit):
        show_map([path, '--images', str(scene), '--at', '2'])


class Moments(Backbone):
    """Of clips: the brightness of each moment, in feature frames that span one, two and two frames."""

    clips = True

    def __call__(self, pixels):
        return Features(pixels[:, :, [0, 2, 4], ::4, ::4].transpose(1, 2), spans=(1, 2, 2))


def test_components_are_those_of_the_frame_that_is_shown():
    """Frames 0 to 4 have their bright row at 0, 1, 1, 2, 2; frame 2 is in the middle."""
    clip = torch.zeros(1, 3, 5, 16, 16)
    for t, row in enumerate((0, 1, 1, 2, 2)):
        clip[:, :, t, 4 * row : 4 * row + 4] = 1
    seer = PerceptualStructurer(Moments(), PCAAllocator(components=1))
    colours = components_of_middle(seer, clip)[0]
    assert colours.shape == (16, 16)
    assert (colours[4:8] != colours[0]).all()
    assert (colours[8:] == colours[0]).all()
    assert (components_of_middle(seer, clip * 0) == 128).all(), 'a frame of one colour has none'


def test_clips_too_wide_or_slow_for_an_encoder(tmp_path):
    clip = np.full((3, 3, 64, 1100), 60, dtype=np.uint8)
    maps = {f'map {i}': torch.ones(1, 8, 8) for i in range(8)}
    map_clip(clip, maps, tmp_path / 'wide', fps=0.4)
    written = read_clip(tmp_path / 'wide.mp4', range(3))
    assert written.shape[2] == 3840
    assert abs(written.shape[1] - 3840 * 64 / (9 * 1100)) <= 2
    strip = Image.open(tmp_path / 'wide_strip.png')
    assert strip.size == (3 * 1100 + 2 * 4, 14 + 9 * (64 + 14))


def test_signed_maps_have_two_colours():
    picture, plane = np.full((3, 2, 9), 200, dtype=np.uint8), torch.tensor([[3.0, 0.0, -3.0]])
    left, middle, right = (coloured(plane, 3.0, (2, 9), signed=True)[:, 0, k].astype(int) for k in (1, 4, 7))
    assert left[0] > left[2] + 50, 'red'
    assert middle.min() > 230, 'white'
    assert right[2] > right[0] + 50, 'blue'
    left, middle, right = (lit(picture, plane, 3.0, signed=True)[:, 0, k].astype(int) for k in (1, 4, 7))
    assert left.tolist() == [200, 200, 200]
    assert middle.max() < 60
    assert right[2] > right[0] + 50


def test_words_of_a_histogram_do_not_overlap():
    """The mean of a signed map is no negative zero, and the three numbers are apart."""
    values = torch.cat([torch.full((64,), -1e-9), torch.linspace(-1, 1, 65)])
    panel = np.asarray(histogram(values, (176, 72))).astype(int)
    written = (panel[-14:].min(-1) < 200).any(0).nonzero()[0]
    gaps = np.diff(written)
    assert (gaps > 20).sum() == 2, 'three words'


def test_letters_that_pillow_lacks_come_from_another_font():
    assert font_file(frozenset('a red circle')) is None
    own = font_file(frozenset('красный круг'))
    assert own is not None
    assert {ord(c) for c in 'красныйуг'} <= glyphs(own)
    assert not {ord('к')} & glyphs(None)
    assert text_width('красный', 13) > text_width('к', 13) > 0


def test_clips_become_clips_and_strips(tmp_path, capsys):
    clip = np.full((3, 11, 64, 80), 60, dtype=np.uint8)
    for t in range(11):
        clip[0, t, 20:36, 4 * t : 4 * t + 16] = 230
    write_mp4(clip, tmp_path / 'clip.mp4', 8)
    out = tmp_path / 'maps'
    flow = config(tmp_path, 'motion', "type='PerceptualStructurer', backbone=dict(type='DINOv2Backbone', "
                  "pretrained='vipo://tiny-dinov2'), allocator=dict(type='MotionAllocator')")  # fmt: skip
    assert show_map([TINY, flow, '--videos', str(tmp_path / 'clip.mp4'), '--out', str(out)]) == 0
    # 9 of 11 frames fit a stride of 4; the clip stands beside what two maps leave of it
    assert read_clip(out / '0000.mp4', range(9)).shape == (9, 64, 240, 3)
    assert Image.open(out / '0000_strip.png').size == (8 * 80 + 7 * 4, 14 + 3 * (64 + 14))


def test_mistakes_are_explained(scene, tmp_path, capsys):
    reward = config(tmp_path, 'reward', "type='RewardAttributionStructurer'")
    assert show_map([reward, '--images', str(scene), '--out', str(tmp_path / 'x')]) == 2
    assert 'reward: the map depends on the prompt of a picture; give it with --texts' in capsys.readouterr().err
    alone = tmp_path / 'alone.py'
    alone.write_text("structurer = dict(type='RewardAttributionStructurer')\n")
    assert show_map([str(alone), '--images', str(scene), '--texts', 'a', '--out', str(tmp_path / 'x')]) == 2
    assert "no section reward=dict(...). Write one beside it, in a config with _base_ = ['alone.py']" in (
        capsys.readouterr().err
    )
    assert show_map([reward, '--images', str(scene), '--texts', 'a', 'b', '--out', str(tmp_path / 'x')]) == 2
    assert '1 files but 2 --texts' in capsys.readouterr().err
    motion = config(tmp_path, 'motion', "type='PerceptualStructurer', backbone=dict(type='DINOv2Backbone', "
                    "pretrained='vipo://tiny-dinov2'), allocator=dict(type='MotionAllocator')")  # fmt: skip
    assert show_map([motion, '--images', str(scene), '--out', str(tmp_path / 'x')]) == 2
    assert 'scene.png: MotionAllocator compares the frames of clips' in capsys.readouterr().err
    assert show_map([str(ROOT / 'configs/grpo_tiny_sd3.py'), '--images', str(scene)]) == 2
    assert 'no section structurer' in capsys.readouterr().err
    assert show_map([TINY, '--images', str(tmp_path / 'nowhere.png')]) == 2
    assert 'does not exist' in capsys.readouterr().err


def test_any_full_size_config_by_rehearsal(scene, tmp_path):
    path = str(ROOT / 'configs/vipo_flux_hps.py')
    assert show_map([path, '--rehearse', '--images', str(scene), '--out', str(tmp_path / 'maps')]) == 0


def test_light_and_colours_by_hand():
    picture, plane = np.full((3, 4, 4), 200, dtype=np.uint8), torch.tensor([[2.0, 0.0]])
    left, *_, right = lit(picture, plane, 2.0)[0, 0].tolist()
    assert (left, right) == (200, 30)
    bright, *_, dark = coloured(plane, 2.0, (4, 4)).sum(0)[0].tolist()
    assert bright > dark + 300
    features = torch.zeros(2, 5, 2, 2)
    features[:, 0, :, 1] = 1
    colours = component_colours(features, (4, 4))
    assert colours.shape == (3, 2, 4, 4)
    assert colours[0, 0, 0].tolist() in ([0, 0, 255, 255], [255, 255, 0, 0])


def test_metrics_by_hand():
    cover = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0]])[None]
    perfect, opposite = measure(cover, cover), measure(1 - cover, cover)
    assert {k: v[0] for k, v in perfect.items()} == pytest.approx(
        {'pointing': 1, 'IoU': 1, 'correlation': 1, 'mass': 4}
    )
    assert {k: v[0] for k, v in opposite.items()} == pytest.approx(
        {'pointing': 0, 'IoU': 0, 'correlation': -1, 'mass': 0}
    )
    half = measure(torch.tensor([[3.0, 0, 1, 0], [0, 0, 0, 0]])[None], cover)
    # the two highest: one on the object, one beside it
    assert half['pointing'][0] == 1
    assert half['IoU'][0] == pytest.approx(1 / 3)
    assert half['mass'][0] == pytest.approx(3 / 4 * 4)
    even = measure(torch.ones(1, 2, 4), cover)
    assert (even['pointing'][0], even['mass'][0]) == pytest.approx((2 / 8, 1))


@pytest.mark.slow
def test_comparison_of_strategies(tmp_path):
    assert study_maps(['--scenes', '24', '--out', str(tmp_path)]) == 0
    page = (tmp_path / 'README.md').read_text()
    assert '| PCA, center |' in page
    assert (tmp_path / 'maps.png').exists()
    assert len((tmp_path / 'results.csv').read_text().splitlines()) == 1 + 20 * 24
