"""Tensors that are spread over ranks, and the way to whole ones and back; whole tensors pass through unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmengine.dist import is_main_process
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether any of them is spread over ranks."""
    return any(isinstance(x, DTensor) for x in tensors)


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor | None:
    """The whole tensor in main memory on rank 0, None elsewhere. Every rank has to call it: the parts travel."""
    if isinstance(x, DTensor):
        # Parts that are offloaded go through the device, where the group communicates.
        x = x.detach().to(x.device_mesh.device_type).full_tensor()
    return x.detach().cpu() if is_main_process() else None


def spread_like(x: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, divided as ``target`` is; nothing travels.

    Args:
        x: of the shape of ``target``.
        target: whole, or spread over ranks.
    """
    if not isinstance(target, DTensor):
        return x
    parts = distribute_tensor(x.detach(), target.device_mesh, target.placements, src_data_rank=None)
    return parts.to(local(target).device)


def whole_state(state: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """:func:`whole` of every tensor, one after the other."""
    return {name: whole(x) for name, x in state.items()}


def whole_optimizer_state(optimizer: optim.Optimizer) -> dict[str, Any]:
    """``optimizer.state_dict()`` with whole tensors: parameters are numbers in it, so it fits any strategy."""
    state = optimizer.state_dict()
    parts = {
        number: {k: whole(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        for number, values in state['state'].items()
    }
    return {**state, 'state': parts}


def spread_optimizer_state(state: dict[str, Any], optimizer: optim.Optimizer) -> dict[str, Any]:
    """The other way: tensors of the shape of their parameter are divided as that is."""
    parameters = [p for group in optimizer.param_groups for p in group['params']]

    def spread(number: int, value: Any) -> Any:
        fits = number < len(parameters) and isinstance(value, Tensor) and value.shape == parameters[number].shape
        return spread_like(value, parameters[number]) if fits else value

    parts = {n: {k: spread(n, v) for k, v in values.items()} for n, values in state['state'].items()}
    return {**state, 'state': parts}


def spread_state(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Tensors that a module has in the same shape, divided as the module's; all others as they are."""
    own = dict(module.named_parameters())
    fitting = {k for k, v in state.items() if k in own and own[k].shape == v.shape}
    return {k: spread_like(v, own[k]) if k in fitting else v for k, v in state.items()}


def block_lists(network: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks of a diffusers network: the members of its lists of modules, in the order of use."""
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.parameters(), None) is not None)
