"""What is divided among ranks, without ranks."""

import pytest
import torch

from vipo.engine.sharding import block_lists, is_sharded, local, spread_like, whole
from vipo.engine.strategies.fsdp2 import FSDP2
from vipo.generators.source import describe_source
from vipo.registry import ConfigError


@pytest.mark.parametrize(
    ('name', 'pipeline'),
    [
        ('stabilityai/stable-diffusion-3.5-medium', 'StableDiffusion3Pipeline'),
        ('black-forest-labs/FLUX.1-dev', 'FluxPipeline'),
        ('Wan-AI/Wan2.1-T2V-14B-Diffusers', 'WanPipeline'),
        ('hunyuanvideo-community/HunyuanVideo', 'HunyuanVideoPipeline'),
    ],
)
def test_blocks_are_those_that_diffusers_does_not_split(name, pipeline):
    """And they hold nearly everything, so that what stays outside costs little."""
    network = describe_source(name, pipeline).skeleton('transformer')
    blocks = list(block_lists(network))
    assert {type(block).__name__ for block in blocks} <= set(network._no_split_modules)
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    assert inside > 0.97 * sum(p.numel() for p in network.parameters())


def test_whole_tensors_pass_through():
    x = torch.arange(6.0)
    assert not is_sharded([x])
    assert local(x) is x
    assert spread_like(x, torch.zeros(6)) is x
    assert torch.equal(whole(x), x)


def test_a_network_without_blocks_is_refused():
    class Toy:
        denoiser = torch.nn.Linear(2, 2)

        def frozen_networks(self):
            return []

    with pytest.raises(ConfigError, match=r"Linear has no nn\.ModuleList.*type='DDP'"):
        FSDP2().shard(Toy())
