"""What stands for a model of timm in a rehearsal."""

import pytest
import torch

from vipo.structurers.backbones import TimmBackbone


def test_model_without_a_twin_is_rehearsed_at_full_size(tmp_path):
    changed = TimmBackbone.rehearsal({'model': 'mobilenetv3_small_050', 'input_size': 512}, tmp_path)
    assert changed == {'pretrained': False, 'device': 'cpu', 'input_size': 64}
    backbone = TimmBackbone('mobilenetv3_small_050', **changed)
    assert backbone(torch.rand(1, 3, 48, 70)).map.shape[-2:] == (2, 3)


@pytest.mark.parametrize('model', ['resnet18', 'resnet50', 'resnext50_32x4d', 'seresnext101_32x8d'])
def test_every_resnet_has_a_twin(model, tmp_path):
    changed = TimmBackbone.rehearsal({'model': model}, tmp_path)
    assert 'checkpoint' in changed
    assert TimmBackbone(model, **changed)(torch.rand(1, 3, 64, 96)).map.shape[-2:] == (2, 3)
