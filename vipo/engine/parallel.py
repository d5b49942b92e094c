"""The few collective operations that the loop needs; without a process group each is the identity."""

from __future__ import annotations

import torch
from mmengine.dist import all_gather, all_reduce_dict, get_world_size
from torch import Tensor


def gather(x: Tensor) -> Tensor:
    """Concatenate equal-sized tensors of all ranks in rank order."""
    return torch.cat(all_gather(x)) if get_world_size() > 1 else x


def mean_over_ranks(logs: dict[str, float]) -> dict[str, float]:
    """Average each value over the ranks."""
    if get_world_size() == 1:
        return logs
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in logs.items()}
    all_reduce_dict(tensors, op='mean')
    return {k: v.item() for k, v in tensors.items()}
