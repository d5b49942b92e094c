"""Structurers: pixels -> allocation map, by a perceptual backbone and a map strategy."""

from vipo.structurers.allocators import Allocator, PCAAllocator, UniformAllocator
from vipo.structurers.structurer import PerceptualStructurer

__all__ = ['Allocator', 'PCAAllocator', 'PerceptualStructurer', 'UniformAllocator']
