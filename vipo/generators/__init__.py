"""Generators: prompts -> latents -> pixels, one adapter per model family over diffusers' own classes."""

from vipo.generators.base import Conditioning, Generator
from vipo.generators.sd3 import SD3Generator

__all__ = ['Conditioning', 'Generator', 'SD3Generator']
