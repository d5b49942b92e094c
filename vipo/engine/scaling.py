"""What GPUs send each other in an iteration, and how well a config divides among many.

A ring over W GPUs gathers S bytes of which each has a part, or sums S bytes of which each keeps a part, by sending
``(W - 1) / W * S`` from every GPU; summing S bytes for all is both, one after the other (Patarasuk and Yuan, 2009).
Rings that use all of a node's links together send as much out of a node as a ring of one GPU for each node would, so
that the slower of the two links gives the time: ``sent / min(bandwidth of a GPU, bandwidth of a node)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Traffic:
    """What a plan knows of an iteration on one GPU.

    Args:
        world_size: GPUs, W.
        gathered: bytes of the weights of one network in the precision in which they are put together.
        reduced: bytes of the gradients of one network.
        networks: denoisers; a pass uses one of them.
        rollout_passes, update_passes: forward passes there.
        extra_passes: forward passes of the reference and for old log-probs, within the update.
        optimiser_steps: of one iteration.
    """

    world_size: int
    gathered: int
    reduced: int
    networks: int
    rollout_passes: int
    update_passes: int
    extra_passes: int
    optimiser_steps: int

    def of_ddp(self) -> dict[str, int]:
        """Gradients are summed once for each optimiser step; a rollout sends nothing."""
        return {'rollout': 0, 'update': self._sent(2 * self.reduced * self.networks * self.optimiser_steps)}

    def of_fsdp2(self, options: Mapping[str, Any]) -> dict[str, int]:
        """Weights are put together before they are used, and gradients divided after each backward pass.

        Args:
            options: of the strategy in the config.
        """
        times = self.networks if options.get('keep_in_rollout', True) else self.rollout_passes
        twice = 1 + options.get('reshard_after_forward', True)
        gathers = self.update_passes * twice + self.extra_passes
        return {
            'rollout': self._sent(times * self.gathered),
            'update': self._sent(gathers * self.gathered + self.update_passes * self.reduced),
        }

    def _sent(self, size: int) -> int:
        return size * (self.world_size - 1) // self.world_size


@dataclass(frozen=True)
class Links:
    """A cluster in three figures.

    Args:
        flops: of one GPU per second, as it is reached in training.
        gpu: bytes per second that a GPU sends to others of its node.
        node: bytes per second that a node sends to others.
    """

    flops: float
    gpu: float
    node: float


@dataclass(frozen=True)
class Scaling:
    """An iteration of the denoiser on many GPUs.

    Attributes:
        compute: seconds.
        transfer: seconds.
        lowest, highest: efficiency against one GPU that has the work of a perfect share, where no transfer happens
            during computation, and where all of it does.
    """

    compute: float
    transfer: float
    lowest: float
    highest: float


def scaling(flops: int, even_share: float, sent: int, nodes: int, links: Links) -> Scaling:
    """Time of an iteration.

    Args:
        flops: of the GPU that has most samples.
        even_share: FLOPs of all GPUs over their number.
        sent: bytes that a GPU sends.
        nodes: machines that the GPUs are in.
        links: of the cluster.
    """
    bandwidth = links.gpu if nodes == 1 else min(links.gpu, links.node)
    compute, transfer = flops / links.flops, sent / bandwidth
    ideal = even_share / links.flops
    return Scaling(compute, transfer, ideal / (compute + transfer), ideal / max(compute, transfer))
