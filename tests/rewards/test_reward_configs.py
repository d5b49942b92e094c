"""Every reward in configs/_base_/rewards is there, takes its options, and its rehearsal scores samples."""

import importlib.util
from pathlib import Path

import pytest
import torch
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


def test_every_reward_of_the_package_has_a_config():
    """But for those that are made of others or of the user's function."""
    from vipo import rewards

    classes = {n for n in rewards.__all__ if n.endswith('Reward') and n not in ('Reward', 'PictureReward')}
    assert {read(name)[0].__name__ for name in CONFIGS} == classes - {'FrameReward', 'FunctionReward', 'WeightedReward'}


def test_judge_reads_its_own_form_and_no_other(tmp_path):
    cls, options = read('judge')
    reward = cls(**options | cls.rehearsal(options, tmp_path))
    assert set(reward.patterns) == set(reward.weights) == {'match', 'looks'}
    assert reward._read(('Match: 4.5\nLooks: 2', 'stop'), 'x') == {'match': 4.5, 'looks': 2.0}
    for answer in ('Match: 4 out of 5', 'Match: <number>\nLooks: 3', 'Match: 9\nLooks: 3'):
        assert all(number != number for number in reward._read((answer, 'stop'), 'x').values())
    output = reward(torch.rand(3, 3, 1, 16, 16), ['a', 'b', 'c'])
    assert output.valid.all()
    assert output.scores.min() >= 0.2
    assert output.scores.max() <= 1


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
