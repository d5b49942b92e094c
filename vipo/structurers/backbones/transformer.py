"""What all backbones over a vision transformer of the transformers library share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vipo.assets import resolve
from vipo.assets.intact import check_folder, load_transformers
from vipo.registry.build import torch_dtype
from vipo.structurers.backbones.attention import blocks_of, first_token_attention, outputs_of, projections_of
from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.backbones.preparation import IMAGENET, Preparation, published_colours


class TransformerBackbone(Backbone):
    """Patch features of a vision transformer.

    Pictures are resized, never cropped, to multiples of the patch size (the models themselves cut the rest off without
    a word). Colours are normalised as the checkpoint's own pre-processing file says.

    Args:
        pretrained: hub id, local folder, or ``vipo://`` asset.
        layer: the block whose output is taken, through the model's final normalisation where it has one for patches; -1
            is the last, -2 the one before. Blocks behind it are dropped.
        input_size: length of the shorter side before rounding to patches; None keeps the picture's own size.
        max_tokens: in place of ``input_size``, most patches of a picture: larger ones are scaled down.
        cls_attention: also return the CLS token's attention in that block.
        device: until ``to`` moves it; a run moves everything to the GPU if there is one.
        dtype: of the weights and the computation.

    Raises:
        ValueError: the checkpoint is of another family or incomplete, it has no such block or no CLS token, the sizes
            contradict each other, or the dtype is unknown.
    """

    #: A family's own ``**options`` go on to this class.
    forwards_options: ClassVar[bool] = True
    #: Name of the family, for messages.
    family: ClassVar[str]
    #: ``model_type`` of a checkpoint -> class of transformers that loads it.
    kinds: ClassVar[Mapping[str, str]]
    #: Beginning of a published hub id -> millions of parameters of the vision model.
    millions: ClassVar[Mapping[str, float]]
    #: Mean and standard deviation per channel, where the checkpoint does not say.
    colours: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = IMAGENET
    #: Whether the first token is a CLS token.
    cls_token: ClassVar[bool] = True
    #: Beginnings of names of weights that a checkpoint may lack, because nothing here depends on them.
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        pretrained: str,
        layer: int = -1,
        input_size: int | None = None,
        max_tokens: int | None = None,
        cls_attention: bool = False,
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        from transformers import AutoConfig

        place = resolve(pretrained)
        if Path(place).is_dir():
            check_folder(Path(place))
        self.kind = AutoConfig.from_pretrained(place, trust_remote_code=False).model_type
        if self.kind not in self.kinds:
            name = type(self).__name__
            raise ValueError(f'{name} needs a {self.family} checkpoint, {pretrained!r} is of type {self.kind!r}')
        if cls_attention and not self.cls_token:
            raise ValueError(f'backbone.cls_attention: {self.family} has no CLS token')
        self.model = self.load(place, torch_dtype(dtype)).to(device)
        self.prefix = self.count_prefix()
        self.preparation = Preparation(
            self.patch_size(), *published_colours(place, self.colours), input_size=input_size, max_tokens=max_tokens
        )
        self.has_cls_attention = cls_attention
        self.cut(layer)

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        return {'pretrained': options.get('pretrained', signature(cls).parameters['pretrained'].default)}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        name = cls.hub_models(options)['pretrained']
        fitting = [known for known in cls.millions if name.startswith(known)]
        if not fitting:
            return None
        width = torch_dtype(options.get('dtype', 'float32')).itemsize
        return round(cls.millions[max(fitting, key=len)] * 10**6) * width

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.structurers.backbones.twins import save_twin, small

        kind = cls.twin_of(cls.hub_models(options)['pretrained'])
        return {'pretrained': save_twin(kind, folder / kind), **small(options)}

    @classmethod
    def twin_of(cls, pretrained: str) -> str:
        """Which of :attr:`kinds` stands for a checkpoint in a rehearsal."""
        return next(iter(cls.kinds))

    def to(self, device: torch.device | str) -> TransformerBackbone:
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        x = self.preparation(pixels, next(self.model.parameters()))
        patch = self.preparation.patch
        grid = x.shape[-2] // patch, x.shape[-1] // patch
        watched = projections_of(self.last_block) if self.has_cls_attention else {}
        with outputs_of(watched) as seen:
            tokens = self.run(x)
        attention = None
        if self.has_cls_attention:
            heads = self.model.config.num_attention_heads
            attention = first_token_attention(seen['query'], seen['key'], heads, self.prefix, self.rotation(x))
            attention = attention.unflatten(1, grid)
        return Features(tokens[:, self.prefix :].float().mT.unflatten(2, grid), attention)

    def load(self, place: str, dtype: torch.dtype) -> nn.Module:
        """The model, from a folder or hub id."""
        return load_vision_model(self.kinds[self.kind], place, dtype, self.unused)

    def run(self, x: Tensor) -> Tensor:
        """All tokens ``(N, prefix + h w, D)`` of prepared pictures."""
        return self.model(pixel_values=x).last_hidden_state

    def rotation(self, x: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Rotary embedding of keys ``(N, heads, T, d)`` for prepared pictures, where the family has one."""
        return None

    def count_prefix(self) -> int:
        """Leading tokens that are no patches: CLS and registers."""
        return int(self.cls_token) + getattr(self.model.config, 'num_register_tokens', 0)

    def patch_size(self) -> int:
        """Pixels along the side of a feature position."""
        return square(self.model.config.patch_size)

    def cut(self, layer: int) -> None:
        """Drop the blocks behind the one that is asked for."""
        count = self.model.config.num_hidden_layers
        blocks = blocks_of(self.model, count)
        del blocks[block_number(layer, count) + 1 :]
        self.last_block = blocks[-1]


def load_vision_model(name: str, place: str, dtype: torch.dtype, unused: tuple[str, ...] = ()) -> nn.Module:
    """The vision model of a checkpoint, frozen and in evaluation mode; nothing of it stays at random values.

    Args:
        name: of the class in transformers. A checkpoint may hold more, such as a text tower.
        place: folder or hub id.
        unused: beginnings of names that may be missing.

    Raises:
        ValueError: a weight is missing or of another shape.
    """
    import transformers

    return load_transformers(getattr(transformers, name), place, dtype, part=True, unused=unused)


def block_number(layer: int, count: int) -> int:
    """The option ``layer`` as a number from 0.

    Raises:
        ValueError: there are fewer blocks.
    """
    if not -count <= layer < count:
        raise ValueError(f'backbone.layer={layer}: the model has {count} blocks, so 0 to {count - 1} or -{count} to -1')
    return layer % count


def square(size: int | list[int] | tuple[int, int]) -> int:
    """The side of a square that a config gives as one number or two.

    Raises:
        ValueError: it is no square.
    """
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise ValueError(f'patches of {size} are not square')
    return sides.pop()
