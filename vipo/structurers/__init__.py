"""Structurers: pixels -> allocation map, by a perceptual backbone and a map strategy."""

from vipo.structurers.allocators import (
    Allocator,
    CLSAttentionAllocator,
    FeatureNormAllocator,
    MotionAllocator,
    PCAAllocator,
    UniformAllocator,
)
from vipo.structurers.attribution import RewardAttributionStructurer
from vipo.structurers.base import Structurer
from vipo.structurers.combined import BlendedStructurer, CombinedStructurer
from vipo.structurers.prior import PriorStructurer
from vipo.structurers.structurer import PerceptualStructurer

__all__ = [
    'Allocator',
    'BlendedStructurer',
    'CLSAttentionAllocator',
    'CombinedStructurer',
    'FeatureNormAllocator',
    'MotionAllocator',
    'PCAAllocator',
    'PerceptualStructurer',
    'PriorStructurer',
    'RewardAttributionStructurer',
    'Structurer',
    'UniformAllocator',
]
