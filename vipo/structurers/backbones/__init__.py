"""Perceptual backbones: frozen vision models that give dense features."""

from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.backbones.clip import CLIPBackbone
from vipo.structurers.backbones.dinov2 import DINOv2Backbone
from vipo.structurers.backbones.dinov3 import DINOv3Backbone
from vipo.structurers.backbones.reward_tower import RewardTowerBackbone
from vipo.structurers.backbones.siglip import SigLIPBackbone
from vipo.structurers.backbones.timm_models import TimmBackbone
from vipo.structurers.backbones.vjepa2 import VJEPA2Backbone

__all__ = [
    'Backbone',
    'CLIPBackbone',
    'DINOv2Backbone',
    'DINOv3Backbone',
    'Features',
    'RewardTowerBackbone',
    'SigLIPBackbone',
    'TimmBackbone',
    'VJEPA2Backbone',
]
