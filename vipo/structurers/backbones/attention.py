"""Looks into a transformer while it runs: outputs of its layers, and where its first token attends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


def blocks_of(model: nn.Module, count: int) -> nn.ModuleList:
    """The list of a transformer's ``count`` blocks, by whatever name its family calls it."""
    return next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)


def projections_of(block: nn.Module) -> dict[str, nn.Module]:
    """The layers ``'query'`` and ``'key'`` of a block's attention."""
    names = {'query': ('q_proj', 'query'), 'key': ('k_proj', 'key')}
    found = {n.rpartition('.')[-1]: m for n, m in block.named_modules()}
    return {kind: next(found[n] for n in known if n in found) for kind, known in names.items()}


@contextmanager
def outputs_of(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Within this context, what these modules gave when they last ran."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def first_token_attention(
    query: Tensor, key: Tensor, heads: int, prefix: int, rotate: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Attention from the first token to those behind the prefix, averaged over heads.

    ``softmax(q k^T / sqrt(d))`` of one row alone, which leaves the model's own attention to its fused kernels. The
    softmax is over all tokens, so a row sums to one less what goes to the prefix.

    Args:
        query, key: ``(N, T, D)``, as projected.
        heads: D is divided among them.
        prefix: leading tokens that are no patches.
        rotate: rotary embedding of the keys ``(N, heads, T, d)``; the first token is not rotated.

    Returns:
        ``(N, T - prefix)`` float32.
    """
    one = query[:, 0].float().unflatten(-1, (heads, -1))
    keys = key.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    if rotate is not None:
        keys = rotate(keys)
    scores = (keys @ one[..., None])[..., 0] * one.shape[-1] ** -0.5
    return scores.softmax(-1)[..., prefix:].mean(1)
