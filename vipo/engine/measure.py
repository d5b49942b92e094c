"""What a forward and a backward pass of the full-size model take, counted on tensors without contents."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vipo.generators.base import Conditioning
from vipo.generators.pipeline import PipelineGenerator
from vipo.generators.source import cast_as_loaded
from vipo.generators.training import add_lora


@dataclass(frozen=True)
class PassCost:
    """Of one micro-batch.

    Attributes:
        forward_flops, backward_flops: floating point operations; a multiplication and an addition are two.
        forward_peak: bytes held at once in a pass without gradient, beside the weights.
        saved: bytes kept for the backward pass.
        saved_checkpointed: with gradient checkpointing: the inputs of all blocks and the inside of the largest.
        largest_block: parameters of the largest block.
        decode_peak: bytes held at once while one ``decode_batch`` is decoded, beside the autoencoder.
    """

    forward_flops: int
    backward_flops: int
    forward_peak: int
    saved: int
    saved_checkpointed: int
    largest_block: int
    decode_peak: int


def measure_pass(generator: PipelineGenerator, batch: int, lora: dict[str, Any] | None) -> PassCost:
    """Run the denoiser and the autoencoder of a generator made with ``init='meta'`` on tensors without contents.

    Args:
        batch: samples of a micro-batch.
        lora: the config's adapter options; None where all weights are trained.
    """
    sigma = 0.95
    name = generator.network_at(sigma)
    network = generator.source.skeleton(name)
    if lora is not None:
        cast_as_loaded(network, generator.compute_dtype).requires_grad_(False)
        add_lora(network, default_targets=generator.lora_targets, default_exclude=generator.lora_exclude, **lora)
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator._networks = {**generator._networks, name: _without_contents(network)}
        conditioning, x = _inputs(generator, batch)
        with torch.no_grad(), PeakMemory() as forward_peak:
            generator.velocity(x, sigma, conditioning)
        saved = SavedTensors(network)
        with FlopCounterMode(display=False) as flops, saved.recording():
            v = generator.velocity(x, sigma, conditioning)
            forward = flops.get_total_flops()
            v.square().mean().backward()
            both = flops.get_total_flops()
    return PassCost(
        forward_flops=forward,
        backward_flops=both - forward,
        forward_peak=forward_peak.peak,
        saved=saved.total,
        saved_checkpointed=saved.checkpointed,
        largest_block=saved.largest_block,
        decode_peak=measure_decoding(generator, batch),
    )


def measure_decoding(generator: PipelineGenerator, batch: int) -> int:
    """Bytes held at once while a micro-batch is decoded, beside the autoencoder.

    Args:
        generator: made with ``init='meta'``.
        batch: samples of a micro-batch.
    """
    vae = cast_as_loaded(generator.source.skeleton('vae'), generator.vae_dtype or generator.compute_dtype)
    vae.requires_grad_(False)
    if generator.decode_tile is not None:
        generator.use_tiles(vae, generator.decode_tile)
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator.pipe = SimpleNamespace(vae=_without_contents(vae))
        latents = torch.randn(min(batch, generator.decode_batch), *generator.latent_shape())
        with PeakMemory() as peak:
            generator.decode(latents)
    return peak.peak


def _without_contents(module: nn.Module) -> nn.Module:
    """Move a module from the meta device to a CPU without contents, where attention takes its fused path."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                part._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype), p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype)
    return module


def _inputs(generator: PipelineGenerator, batch: int) -> tuple[Conditioning, Tensor]:
    tensors = {
        k: torch.ones(batch, *shape, dtype=torch.long) if k == 'mask' else torch.randn(batch, *shape)
        for k, shape in generator.text_shapes().items()
    }
    if generator.guided:
        tensors |= {f'negative_{k}': v for k, v in tensors.items()}
    return Conditioning(tensors), torch.randn(batch, *generator.latent_shape())


class SavedTensors:
    """Adds up what autograd keeps for the backward pass, in all and by block of the network.

    Weights, and their copies in the precision of the computation, are not counted.
    """

    def __init__(self, network: nn.Module) -> None:
        weights = list(network.parameters())
        self._weights = {p.untyped_storage()._cdata for p in weights}
        # A copy by autocast is a new tensor; its shape and its other precision give it away.
        shapes = {(tuple(p.shape), p.dtype) for p in weights if p.ndim == 2}
        self._copies = shapes | {(shape[::-1], dtype) for shape, dtype in shapes}
        self._network = network
        self._kinds = set(network._no_split_modules or ())
        self._seen: dict[int, Any] = {}
        self._inside = False
        self._blocks: list[int] = []
        self._inputs = 0
        self.total = 0
        self.largest_block = 0

    @property
    def checkpointed(self) -> int:
        """What would be kept if each block were computed again in the backward pass."""
        return self.total - sum(self._blocks) + self._inputs + max(self._blocks, default=0)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within this context everything that is saved is counted."""
        blocks = [m for m in self._network.modules() if type(m).__name__ in self._kinds]
        self.largest_block = max((sum(p.numel() for p in b.parameters()) for b in blocks), default=0)
        handles = [b.register_forward_pre_hook(self._enter, with_kwargs=True) for b in blocks]
        handles += [b.register_forward_hook(self._leave) for b in blocks]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside = True
        self._blocks.append(0)
        self._inputs += sum(t.numel() * t.element_size() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))

    def _leave(self, *_: Any) -> None:
        self._inside = False

    def _pack(self, t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        copied = t.dtype in (torch.bfloat16, torch.float16) and (tuple(t.shape), torch.float32) in self._copies
        if copied or storage._cdata in self._weights or storage._cdata in self._seen:
            return t
        self._seen[storage._cdata] = storage  # kept, so that no other storage gets its address
        self.total += storage.nbytes()
        if self._inside:
            self._blocks[-1] += storage.nbytes()
        return t


class PeakMemory(TorchDispatchMode):
    """The most bytes that the results of operations held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage()._cdata not in self._live | given:
                self._add(t.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._live.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.now -= size
