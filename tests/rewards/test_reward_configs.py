"""Every reward in configs/_base_/rewards is there, takes its options, and its rehearsal scores samples."""

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config

from vipo.registry import REWARDS
from vipo.registry.build import check_options
from vipo.registry.lookup import component_class

FOLDER = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'rewards'
CONFIGS = {path.stem: path for path in sorted(FOLDER.glob('*.py'))}
each = pytest.mark.parametrize('name', CONFIGS)


def read(name):
    section = Config.fromfile(str(CONFIGS[name])).reward.to_dict()
    return component_class(section['type']), {k: v for k, v in section.items() if k != 'type'}


@each
def test_options_are_those_of_the_class(name):
    cls, options = read(name)
    assert cls is not None
    check_options(cls, options, 'reward')


@each
def test_rehearsal_scores_samples(name, tmp_path, normal):
    if name == 'ocr' and not all(importlib.util.find_spec(p) for p in ('rapidocr', 'onnxruntime')):
        pytest.skip("the extra 'vipo[ocr]' is not installed")
    cls, options = read(name)
    if hasattr(cls, 'rehearsal'):
        options |= cls.rehearsal(options, tmp_path)
        assert not hasattr(cls, 'hub_models') or set(cls.hub_models(options)) <= set(options)
    check_options(cls, options, 'reward')
    reward = REWARDS.build({'type': cls.__name__, **options}, at='reward')
    frames = 5 if name == 'videoalign' else 1
    out = reward(normal(2, 3, frames, 64, 96).sigmoid(), ['a sign "open"', 'a sign "closed"'])
    assert out.scores.shape == (2,)
    assert out.valid.all()
    assert reward.to('cpu') is reward
