"""Map strategies: from dense features to a raw saliency map."""

from vipo.structurers.allocators.base import Allocator
from vipo.structurers.allocators.motion import MotionAllocator
from vipo.structurers.allocators.pca import PCAAllocator
from vipo.structurers.allocators.simple import CLSAttentionAllocator, FeatureNormAllocator, UniformAllocator

__all__ = [
    'Allocator',
    'CLSAttentionAllocator',
    'FeatureNormAllocator',
    'MotionAllocator',
    'PCAAllocator',
    'UniformAllocator',
]
