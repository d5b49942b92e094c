"""What all generators over a diffusers pipeline share; a family adds only what is its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vipo.diffusion.schedule import sigma_schedule
from vipo.generators.attention import check_attention
from vipo.generators.base import Conditioning
from vipo.generators.cache import PromptCache
from vipo.generators.prompt_encoding import NEGATIVE, PromptEncoding, freeze
from vipo.generators.sizes import check_decoding, check_resolution, pair
from vipo.generators.source import PipelineSource, describe_source
from vipo.generators.training import Trainable, check_lora, save_lora
from vipo.registry.build import torch_dtype

INITS = ('pretrained', 'random', 'meta')


class PipelineGenerator(PromptEncoding):
    """A generator whose transformer, autoencoder, text encoders and tokenizers come from a diffusers pipeline.

    A family names its classes, encodes texts, calls its transformer and scales its latents for the autoencoder;
    loading, guidance, precision, training and export are here.

    Args:
        pretrained: a diffusers folder, hub id or ``vipo://`` asset.
        resolution: height and width in pixels, or one number for both.
        guidance_scale: see the family.
        negative_prompt: of the unconditional branch of classifier-free guidance.
        max_sequence_length: tokens of the (longest) text encoder.
        lora: adapter options, see :func:`vipo.generators.training.add_lora`; None trains all weights.
        keep_reference: for full training with a KL term, see :class:`vipo.generators.training.Trainable`.
        gradient_checkpointing: trade compute for memory in replay.
        unconditional_gradient: whether the gradient of guidance flows through the unconditional branch too. Without it,
            that branch keeps no activations, and the gradient is another one than that of the sampled velocity.
        shift: of the sigma schedule; None takes the family's own rule.
        attention: a name of diffusers' attention backends such as ``'_native_cudnn'``; None leaves the choice to torch,
            which takes fused kernels wherever they fit.
        decode_batch: most samples decoded at once. 1 is what diffusers calls slicing, which needs no option of its own.
        decode_tile: side in pixels of overlapping tiles in which each sample is decoded, where even one does not fit
            into memory. Seams are blended, so that the pixels are close to those of the whole and not equal; None
            decodes it whole.
        prompt_cache: a folder that keeps encoded prompts. The text encoders are then loaded for prompts that are not in
            it, and leave memory afterwards.
        encode_batch: texts encoded at once. All are padded to ``max_sequence_length``, so that a text's
            encoding does not depend on the others, but for the rounding of another batch size.
        init: ``'pretrained'``; ``'random'``: untrained weights and made-up encodings of prompts, with which time and
            memory of a model can be measured where its weights are not at hand; or ``'meta'``: everything is checked
            and no weight is made, so that it cannot sample.
        device: until ``to`` moves it; a run moves everything to the GPU if there is one.
        dtype: of the weights and of the computation. Trained weights are float32 always, and it is then that of
            autocast.

    Raises:
        ValueError: the resolution does not fit the model, the dtype is unknown, or the autoencoder cannot decode in
            such batches or tiles.
        ConfigError: ``lora`` has an option that :func:`vipo.generators.training.add_lora` does not know.
        OSError: ``pretrained`` leads to no pipeline.
    """

    #: A family's own ``**options`` go on to this class, whose names and types then hold for a config.
    forwards_options: ClassVar[bool] = True
    #: Components that predict velocities and are trained.
    transformers: ClassVar[tuple[str, ...]] = ('transformer',)
    #: Default targets of LoRA.
    lora_targets: ClassVar[tuple[str, ...]]
    #: Modules that they leave out, by the beginning of the name.
    lora_exclude: ClassVar[tuple[str, ...]] = ()
    #: Precision of the autoencoder; None is that of everything else.
    vae_dtype: ClassVar[torch.dtype | None] = None
    #: Whether both branches of classifier-free guidance go through the network in one batch, as in the pipeline.
    batched_guidance: ClassVar[bool] = False

    def __init__(
        self,
        pretrained: str,
        resolution: int | tuple[int, int],
        guidance_scale: float,
        max_sequence_length: int,
        negative_prompt: str = '',
        lora: dict[str, Any] | None = None,
        keep_reference: bool = False,
        gradient_checkpointing: bool = False,
        unconditional_gradient: bool = True,
        shift: float | None = None,
        attention: str | None = None,
        decode_batch: int = 16,
        decode_tile: int | None = None,
        prompt_cache: str | None = None,
        encode_batch: int = 8,
        init: str = 'pretrained',
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        if init not in INITS:
            raise ValueError(f'generator.init must be one of {INITS}, got {init!r}')
        self.init = init
        for name, count in (('encode_batch', encode_batch), ('max_sequence_length', max_sequence_length)):
            if count < 1:
                raise ValueError(f'generator.{name} must be at least 1, got {count}')
        if guidance_scale < 0:
            raise ValueError(f'generator.guidance_scale must not be negative, got {guidance_scale}')
        self.compute_dtype = torch_dtype(dtype)
        self.guidance_scale = guidance_scale
        self.negative_prompt = negative_prompt
        self.max_sequence_length = max_sequence_length
        self.unconditional_gradient = unconditional_gradient
        self.decode_batch = decode_batch
        self.decode_tile = decode_tile
        self.encode_batch = encode_batch
        self._shift = shift
        read = PipelineSource if init == 'pretrained' else describe_source
        self.source = source = read(pretrained, self.pipeline_class)
        skeletons = {n: source.skeleton(n) for n in self.transformers if source.has(n)}
        self.config = skeletons['transformer'].config
        vae = source.skeleton('vae')
        if init == 'pretrained':
            for name, skeleton in {**skeletons, 'vae': vae}.items():
                source.check_weights(name, skeleton)
        self.vae_config = vae.config
        self.scheduler_config = source.scheduler
        self.index = source.index
        self.height, self.width = size = check_resolution(resolution, self.multiple)
        self.check()
        check_decoding(vae, decode_batch, decode_tile, size, self.height // self.latent_shape()[2])
        if lora is not None and keep_reference:
            raise ValueError('generator.keep_reference has no effect with lora: the reference is the model without it')
        #: Network -> names of the layers that carry adapters.
        self.adapted_layers: dict[str, list[str]] = {}
        if lora is not None:
            options = (lora, self.lora_targets, self.lora_exclude)
            self.adapted_layers = {n: check_lora(skeleton, *options) for n, skeleton in skeletons.items()}
        for skeleton in skeletons.values() if attention is not None else ():
            check_attention(skeleton, attention)
        if init == 'meta':
            self._networks = skeletons
            self.denoiser = _joined(skeletons)
            return
        self._dtypes = {'default': self.compute_dtype, 'vae': self.vae_dtype or self.compute_dtype}
        if lora is None:  # what is trained keeps every digit of the checkpoint
            self._dtypes |= dict.fromkeys(skeletons, torch.float32)
        if init == 'random':
            self.cache = None
            self.pipe = source.random(self._dtypes, ('vae', *skeletons), device)
        else:
            self.cache = PromptCache(prompt_cache, self._encoding(source)) if prompt_cache is not None else None
            self.pipe = source.load(self._dtypes, self.text_encoders if self.cache is not None else ())
            self.pipe.to(device)
        for name in ('vae', *self.text_encoders):
            freeze(getattr(self.pipe, name))
        networks = {n: getattr(self.pipe, n).eval() for n in skeletons}
        self._networks: dict[str, nn.Module] = networks
        self.denoiser = _joined(networks)
        if decode_tile is not None:
            self.use_tiles(self.pipe.vae, decode_tile)
        if attention is not None:
            for network in networks.values():
                network.set_attention_backend(attention)
        self.training = {
            n: Trainable(m, lora, self.lora_targets, keep_reference, self.lora_exclude) for n, m in networks.items()
        }
        if gradient_checkpointing:
            for network in networks.values():
                network.enable_gradient_checkpointing()

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'pretrained': options.get('pretrained', signature(cls).parameters['pretrained'].default)}

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.generators.twins import save_twin

        twin = cls.twin_of(cls.hub_models(options)['pretrained'])
        height, width = pair(options.get('resolution', signature(cls).parameters['resolution'].default))
        tiled = options.get('decode_tile') is not None
        # Both are multiples of what any family asks for; a wide picture stays wide, and a tiled one has several tiles.
        small = (64, 64) if height == width else (64, 96) if height < width else (96, 64)
        small = tuple(2 * side for side in small) if tiled else small
        return {
            'pretrained': save_twin(twin, folder / 'twins' / twin),
            'resolution': small,
            'decode_tile': 64 if tiled else None,
            'max_sequence_length': 16,
            'attention': None,
            'init': 'pretrained',
            'device': 'cpu',
            **({'prompt_cache': str(folder / 'prompts')} if options.get('prompt_cache') else {}),
        }

    # ---- what a family says ------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def twin_of(cls, pretrained: str) -> str:
        """Which of :data:`vipo.generators.twins.TWINS` stands in for a checkpoint."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Height and width in pixels must be multiples of it."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """The static time shift of the sigma schedule: the option, or the family's own rule."""

    @abstractmethod
    def predict(self, x: Tensor, sigma: float, texts: dict[str, Tensor]) -> Tensor:
        """One pass of the transformer: ``(N, C, T, H, W)`` in its dtype -> velocity of the same shape."""

    @abstractmethod
    def unscale(self, latents: Tensor) -> Tensor:
        """Latents ``(N, C, T, H, W)`` -> what the autoencoder decodes."""

    @abstractmethod
    def use_tiles(self, vae: nn.Module, side: int) -> None:
        """Make the autoencoder decode in tiles of ``side`` x ``side`` pixels, each a quarter over the last."""

    def pipeline_arguments(self) -> dict[str, Any]:
        """What diffusers' pipeline is called with, beside the prompts, to sample as this generator does."""
        return {
            'height': self.height,
            'width': self.width,
            'guidance_scale': self.guidance_scale,
            'max_sequence_length': self.max_sequence_length,
        }

    def pipeline_texts(self, conditioning: Conditioning) -> dict[str, Tensor]:
        """Encoded prompts by the names that diffusers' pipeline has for them."""
        names = {'embeds': 'prompt_embeds', 'pooled': 'pooled_prompt_embeds', 'mask': 'prompt_attention_mask'}
        names |= {NEGATIVE + k: NEGATIVE + v for k, v in names.items()}
        return {names[k]: v for k, v in conditioning.tensors.items()}

    def check(self) -> None:
        """Refuse sizes that the model cannot represent; called before weights are loaded."""

    def guidance_at(self, sigma: float) -> float:
        """Scale of classifier-free guidance; 1 leaves the unconditional branch out."""
        return self.guidance_scale

    def network_at(self, sigma: float) -> str:
        """Which of :attr:`transformers` is used."""
        return 'transformer'

    # ---- the contract ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.divided_on or next(self.denoiser.parameters()).device

    @property
    def autoencoder(self) -> nn.Module:
        return self.pipe.vae

    @property
    def text_models(self) -> tuple[nn.Module, ...]:
        parts = (getattr(self.pipe, name, None) for name in self.text_encoders)
        return tuple(part for part in parts if part is not None)

    def to(self, device: torch.device | str) -> PipelineGenerator:
        if self.divided_on is None:
            self.pipe.to(device)
            for training in self.training.values():
                training.to(device)
            return self
        # What is divided among ranks stays where its parts are.
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and name not in self._networks:
                part.to(device)
        return self

    @property
    def guided(self) -> bool:
        """Whether any step uses classifier-free guidance."""
        return self.guidance_at(1.0) > 1 or self.guidance_at(0.0) > 1

    def sigmas(self, num_steps: int) -> Tensor:
        return sigma_schedule(num_steps, self.shift)

    def velocity(self, latents: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
        conditioning = conditioning if conditioning.rows is None else conditioning[:]
        network = self._networks[self.network_at(sigma)]
        dtype = network.dtype  # diffusers walks through all modules for it
        x = latents.to(dtype)
        scale = self.guidance_at(sigma)
        # Masks stay what they are.
        texts = {k: v.to(dtype) if v.is_floating_point() else v for k, v in conditioning.tensors.items()}
        positive = {k: v for k, v in texts.items() if not k.startswith(NEGATIVE)}
        negative = {k: texts[NEGATIVE + k] for k in positive if scale > 1}
        with torch.autocast(x.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            if not negative:
                return self.predict(x, sigma, positive).float()
            if self.batched_guidance and self.unconditional_gradient:
                both = {k: torch.cat([negative[k], positive[k]]) for k in positive}
                without, towards = self.predict(torch.cat([x, x]), sigma, both).float().chunk(2)
            else:
                towards = self.predict(x, sigma, positive).float()
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.unconditional_gradient):
                    without = self.predict(x, sigma, negative).float()
        return without + scale * (towards - without)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        z = self.unscale(latents.to(vae.device, vae.dtype))
        pixels = torch.cat([self.decode_part(part) for part in z.split(self.decode_batch)]).to(latents.device)
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def decode_part(self, z: Tensor) -> Tensor:
        """Unscaled latents -> pixels ``(N, 3, F, Y, X)`` in [-1, 1]."""
        return self.pipe.vae.decode(z, return_dict=False)[0]

    @property
    def has_reference(self) -> bool:
        return all(training.has_reference for training in self.training.values())

    @contextmanager
    def reference(self) -> Iterator[None]:
        trained = self._networks
        with ExitStack() as stack:
            self._networks = {n: stack.enter_context(t.reference()) for n, t in self.training.items()}
            try:
                yield
            finally:
                self._networks = trained

    def frozen_networks(self) -> list[nn.Module]:
        return [t.frozen for t in self.training.values() if t.frozen is not None]

    def save_pretrained(self, folder: str | Path) -> None:
        for name, network in self._networks.items():
            if self.training[name].lora:
                # A second transformer is loaded from a file of its own, with load_into_transformer_2=True.
                place = Path(folder) if name == 'transformer' else Path(folder) / name
                save_lora(self.pipe, network, self.adapted_layers[name], place)
            else:
                network.save_pretrained(Path(folder) / name)


def _joined(networks: dict[str, nn.Module]) -> nn.Module:
    return networks['transformer'] if len(networks) == 1 else nn.ModuleDict(networks)


def filled(x: Tensor, value: float) -> Tensor:
    """``(N,)`` float32 on the device of ``x``, whose first axis is N: a timestep keeps its digits under bfloat16."""
    return torch.full((len(x),), value, device=x.device, dtype=torch.float32)
