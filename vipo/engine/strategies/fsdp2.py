"""Every rank has a part of each weight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import get_world_size
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from vipo.engine.parallel import check_equal_weights
from vipo.engine.sharding import block_lists
from vipo.engine.strategies.base import Strategy
from vipo.generators.base import Generator
from vipo.registry import STRATEGIES, ConfigError


@STRATEGIES.register_module()
class FSDP2(Strategy):
    """Weights, gradients and optimiser state are divided among all ranks with torch's ``fully_shard``.

    A transformer block is put together from its parts just before it works. Trained weights stay float32 where they
    are kept; the blocks of full training are put together in ``generator.dtype``, and gradients are averaged in
    float32. With LoRA the frozen weights are divided too, in the precision that they were loaded in.

    Args:
        reshard_after_forward: in the update, let go of a block after its forward pass and put it together again for
            the backward pass. False keeps all of them in between, which saves that and takes memory.
        keep_in_rollout: put every block together once for a whole rollout or evaluation, not once per denoising step;
            in that phase each GPU holds the whole network in ``generator.dtype``. False gathers in every pass.
        cpu_offload: keep the parts, their gradients and the optimiser in main memory.
    """

    shards = True

    def __init__(
        self, reshard_after_forward: bool = True, keep_in_rollout: bool = True, cpu_offload: bool = False
    ) -> None:
        self.reshard_after_forward = reshard_after_forward
        self.keep_in_rollout = keep_in_rollout
        self.cpu_offload = cpu_offload
        if cpu_offload:
            # Norms of gradients in main memory are summed over the ranks there, which NCCL cannot.
            self.backend = 'cpu:gloo,cuda:nccl'

    def shard(self, generator: Generator) -> None:
        """Divide the trained networks and the frozen copies that a KL term needs.

        Raises:
            ConfigError: a network has no list of blocks.
            RunStopped: the ranks did not load the same weights.
        """
        networks = [*_networks(generator.denoiser), *generator.frozen_networks()]
        for network in networks:
            if next(block_lists(network), None) is None:
                raise ConfigError(
                    f"strategy.type='FSDP2' divides transformer blocks, and {type(network).__name__} has no "
                    "nn.ModuleList of them; strategy=dict(type='DDP') takes any network"
                )
        # Parts of different weights would make a network that nobody trained.
        named = (pair for network in networks for pair in network.named_parameters())
        check_equal_weights(named, when='before they are divided')
        device = current_device()
        mesh = init_device_mesh(device.type, (get_world_size(),))
        offload = CPUOffloadPolicy(pin_memory=device.type != 'cpu') if self.cpu_offload else OffloadPolicy()
        options = {'mesh': mesh, 'offload_policy': offload, 'reshard_after_forward': self.reshard_after_forward}
        for network in networks:
            # Inputs stay as they are: a timestep in bfloat16 would lose its last digits. Autocast does the casting.
            compute = _gathered_dtype(network, generator)
            reduce = None if compute is None else torch.float32
            policy = MixedPrecisionPolicy(compute, reduce, cast_forward_inputs=False)
            for block in block_lists(network):
                fully_shard(block, mp_policy=policy, **options)
            # What is in no block is small: embeddings of time and text, the last layer. It keeps its precision.
            fully_shard(network, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False), **options)
        generator.divided_on = device

    @contextmanager
    def gathered(self, generator: Generator) -> Iterator[None]:
        parts = [m for m in generator.denoiser.modules() if isinstance(m, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(not self.keep_in_rollout, recurse=False)
        try:
            yield
        finally:
            for part in parts:
                part.set_reshard_after_forward(self.reshard_after_forward, recurse=False)
                # What was put together here may be the averaged weights.
                part.reshard()

    def describe(self) -> str:
        chosen = [n for n in ('reshard_after_forward', 'keep_in_rollout', 'cpu_offload') if getattr(self, n)]
        return f'FSDP2 ({", ".join(chosen) or "nothing kept back"})'


def current_device() -> torch.device:
    """This rank's GPU, or the processor where there is none."""
    return torch.device('cuda', torch.cuda.current_device()) if torch.cuda.is_available() else torch.device('cpu')


def _networks(denoiser: nn.Module) -> list[nn.Module]:
    return list(denoiser.values()) if isinstance(denoiser, nn.ModuleDict) else [denoiser]


def _gathered_dtype(network: nn.Module, generator: Generator) -> torch.dtype | None:
    """The precision of autocast where all weights are kept in another one; None keeps what there is."""
    compute = getattr(generator, 'compute_dtype', torch.float32)
    kept = {p.dtype for p in network.parameters()}
    return compute if kept == {torch.float32} and compute != torch.float32 else None
