"""Perceptual backbones: frozen vision models that give dense features."""

from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.backbones.dinov2 import DINOv2Backbone

__all__ = ['Backbone', 'DINOv2Backbone', 'Features']
