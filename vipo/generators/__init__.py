"""Generators: prompts -> latents -> pixels, one adapter per model family over diffusers' own classes."""

from vipo.generators.base import Conditioning, Generator
from vipo.generators.flux import FluxGenerator
from vipo.generators.hunyuan_video import HunyuanVideoGenerator
from vipo.generators.image import ImagePipelineGenerator
from vipo.generators.pipeline import PipelineGenerator
from vipo.generators.sd3 import SD3Generator
from vipo.generators.video import VideoPipelineGenerator
from vipo.generators.wan import WanGenerator

__all__ = [
    'Conditioning',
    'FluxGenerator',
    'Generator',
    'HunyuanVideoGenerator',
    'ImagePipelineGenerator',
    'PipelineGenerator',
    'SD3Generator',
    'VideoPipelineGenerator',
    'WanGenerator',
]
