"""Which attention kernels a network can use."""

from __future__ import annotations

from torch import nn

from vipo.registry.build import closest


def check_attention(network: nn.Module, name: str) -> None:
    """Refuse a backend of diffusers that would fail, or be ignored, once the weights are loaded.

    Raises:
        ValueError: there is no such backend, it cannot work under autocast, or the network takes none.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName

    known = [backend.value for backend in AttentionBackendName]
    if name not in known:
        raise ValueError(f'generator.attention: there is no backend {name!r}.{closest(name, known)}')
    if name.strip('_').startswith(('flash', 'sage', 'aiter')):
        # Their kernels want one half precision for all inputs and no mask; autocast normalises q and k in float32.
        raise ValueError(
            f'generator.attention={name!r} does not work under autocast, which trained weights need. Leave it None: '
            "torch's own attention takes a FlashAttention kernel by itself"
        )
    processors = [m.processor for m in network.modules() if hasattr(m, 'processor')]
    if not any(hasattr(p, '_attention_backend') for p in processors):
        raise ValueError(f'generator.attention: {type(network).__name__} takes no backend; leave it None')
