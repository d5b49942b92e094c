"""The tools that draw, compare and time maps."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.conftest import ROOT
from tools.show_map import main as show_map
from tools.study_maps import main as study_maps
from tools.study_maps import measure
from vipo.datasets.media import read_clip
from vipo.visualization.maps import coloured, component_colours, lit
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
    cell, top = 186, 58
    panel = sheet[top : top + 88, 10 + cell : 10 + cell + 176].sum(-1)
    assert panel[44, 132] > 3 * panel[44, 30]


def test_pictures_of_the_configs_own_generator(tmp_path, capsys):
    out = tmp_path / 'maps'
    assert show_map([TINY, '--prompts', 'a red ring', 'a blue square', '--limit', '1', '--out', str(out)]) == 0
    assert (out / 'maps.png').exists()
    assert not list(out.glob('*.mp4'))


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
    assert Image.open(out / '0000_strip.png').size == (8 * 80, 3 * (64 + 14))


def test_mistakes_are_explained(scene, tmp_path, capsys):
    reward = config(tmp_path, 'reward', "type='RewardAttributionStructurer'")
    assert show_map([reward, '--images', str(scene), '--out', str(tmp_path / 'x')]) == 2
    assert '--texts' in capsys.readouterr().err
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
