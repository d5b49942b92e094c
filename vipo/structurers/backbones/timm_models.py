"""Any model of timm: ResNet, ConvNeXt, the image encoders of SAM and SAM 2, and hundreds more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from statistics import mean
from typing import Any
from zipfile import is_zipfile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vipo.registry import BACKBONES, ConfigError
from vipo.registry.build import closest, torch_dtype
from vipo.structurers.backbones.base import Backbone, Features
from vipo.structurers.backbones.preparation import Preparation
from vipo.structurers.functional import resize_matrix

#: Options of timm's classes that let a model take pictures of other sizes than its own.
_DYNAMIC: dict[str, Any] = {'dynamic_img_size': True, 'strict_img_size': False}
#: What this class gives timm itself.
_OURS = ('pretrained', 'features_only', 'out_indices', 'num_classes', 'in_chans')


@BACKBONES.register_module()
class TimmBackbone(Backbone):
    """Features of one stage, or of several, of a model of timm.

    Colours and their normalisation are those of timm's own data config. Pictures are resized, never cropped, to
    multiples of the model's largest stride.

    Several stages make one map at the finest of their strides: the features of each position are scaled to unit length
    stage by stage, so that no stage outweighs the others, coarser ones are then resized (bilinear), and all are joined
    along D. One stage alone is left as the model gives it.

    A position of a strided convolution may look at the first pixel of its cell rather than the middle, as in any
    ResNet: half a stride up and to the left. That is read off the convolutions and said in
    :attr:`~vipo.structurers.backbones.Features.offset`, by which the map is put right; features are left as they are.
    Of networks with strided layers beside their main path (PVTv2) or layers that pad or blur by themselves (BiT,
    resnetblur) it is read wrongly, by up to 0.4 of a position.

    Args:
        model: name in timm, with or without the tag of the weights (``'resnet50'``, ``'resnet50.a1_in1k'``).
        stages: one number or several: stages of a hierarchical model (of a ResNet 0 to 4 with strides 2 to 32), blocks
            of a vision transformer. -1 is the last.
        norm: put features through the model's final normalisation, where timm can. Of SAM that is its neck, whose 256
            channels are the output of the image encoder.
        pretrained: load timm's weights from the hub; False leaves random ones, to measure time and memory with.
        checkpoint: in place of the hub, a file with the weights of the whole model, in timm's layout or the
            original one where timm converts it.
        model_args: further arguments of the model in timm.
        input_size: length of the shorter side before rounding; None keeps the picture's own size.
        max_tokens: in place of ``input_size``, most feature positions of a picture: larger ones are scaled down.
        device: until ``to`` moves it; a run moves everything to the GPU if there is one.
        dtype: of the weights and the computation.

    Raises:
        ValueError: timm has no such model or weights, the model has no such stage or takes no pictures of other sizes,
            the checkpoint does not fit, or the sizes contradict each other.
    """

    def __init__(
        self,
        model: str = 'resnet50',
        stages: int | Sequence[int] = -1,
        norm: bool = False,
        pretrained: bool = True,
        checkpoint: str | None = None,
        model_args: Mapping[str, Any] | None = None,
        input_size: int | None = None,
        max_tokens: int | None = None,
        device: str = 'cpu',
        dtype: str = 'float32',
    ) -> None:
        from timm.data import resolve_model_data_config

        kind = torch_dtype(dtype)
        empty, options = _skeleton(model, dict(model_args or {}))
        if not hasattr(empty, 'forward_intermediates'):
            raise ValueError(f'backbone.model: timm gives no features of the stages of {model!r}')
        strides = [stage['reduction'] for stage in empty.feature_info]
        self.stages, self.norm = _chosen(stages, len(strides)), norm
        self.strides = [strides[i] for i in self.stages]
        self.model = _load(model, options, pretrained, checkpoint).eval().requires_grad_(False)
        colours = resolve_model_data_config(self.model)
        # what lies behind the last of the stages is not needed
        self.model.prune_intermediate_layers(self.stages, prune_norm=not norm)
        self.preparation = Preparation(
            patch=max(strides),
            mean=tuple(colours['mean']),
            std=tuple(colours['std']),
            input_size=input_size,
            max_tokens=max_tokens,
            positions=max(strides) // min(self.strides),
        )
        self.offsets = self._try(model)
        self.model.to(device, kind)

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        if options.get('checkpoint') is not None or not options.get('pretrained', True):
            return {}
        published = _published(_given(cls, options, 'model'))
        return {'checkpoint': published.hf_hub_id} if published is not None and published.hf_hub_id else {}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; counted on the whole model without memory."""
        model, _ = _skeleton(_given(cls, options, 'model'), dict(options.get('model_args') or {}))
        width = torch_dtype(options.get('dtype', 'float32')).itemsize
        return sum(p.numel() for p in model.parameters()) * width

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.structurers.backbones.twins import save_timm_twin, small

        name, args = _given(cls, options, 'model'), dict(options.get('model_args') or {})
        family = type(_skeleton(name, args)[0]).__name__
        return {**save_timm_twin(name, family, args, folder / f'timm-{name}'), **small(options)}

    def to(self, device: torch.device | str) -> TimmBackbone:
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        x = self.preparation(pixels, next(self.model.parameters()))
        stages = [stage.float() for stage in self._run(x, self.norm)]
        return Features(joined(stages, self.offsets), offset=self.offsets[self.strides.index(min(self.strides))])

    def _run(self, x: Tensor, norm: bool) -> list[Tensor]:
        """Features ``(N, D_k, h_k, w_k)`` of the stages."""
        return self.model.forward_intermediates(
            x, indices=self.stages, norm=norm, output_fmt='NCHW', intermediates_only=True
        )

    @torch.no_grad()
    def _try(self, name: str) -> list[float]:
        """Run the model once on a picture that is neither square nor of its own size; the stages' offsets in cells."""
        height, width = 2 * self.preparation.patch, 3 * self.preparation.patch
        picture = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width)
        try:
            with moves_of(self.model, width) as moves:
                stages = self._run(picture, self.norm)
        except Exception as error:
            raise ValueError(
                f'backbone.model: {name!r} of timm gives no features of a picture of {height}x{width}: '
                f'{type(error).__name__}: {error}'
            ) from error
        given = [tuple(stage.shape[-2:]) for stage in stages]
        wanted = [(height // s, width // s) for s in self.strides]
        if given != wanted:
            raise ValueError(
                f'backbone.model: {name!r} of timm gives features of {given} for a picture of {height}x{width}, which '
                f'is not the {wanted} of its strides'
            )
        if self.norm and all(map(torch.equal, stages, self._run(picture, norm=False))):
            raise ValueError(f'backbone.norm: timm has no final normalisation for the features of {name!r}')
        return [sum(mean(found) for at, found in moves.items() if at < s) / s for s in self.strides]


@contextmanager
def moves_of(model: nn.Module, width: int) -> Iterator[dict[float, list[float]]]:
    """Within, a picture that goes through the model tells where the positions of its features look.

    Args:
        width: of the picture, in pixels.

    Yields:
        Stride before -> by how many pixels each strided convolution or pooling there moves its positions to the right
        of the middle of their cells. One that is padded by half its kernel moves them to the left.
    """
    moves: dict[float, list[float]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        kernel, stride = _across(layer.kernel_size), _across(layer.stride)
        if stride == 1:
            return
        same = type(layer).__name__.endswith('Same')  # timm's, after TensorFlow: the larger half is on the right
        pad = max(kernel - stride, 0) // 2 if same else _across(layer.padding)
        before = width / inputs[0].shape[-1]
        moves.setdefault(before, []).append(before * ((kernel - stride) / 2 - pad))

    kinds = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d
    hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, kinds)]
    try:
        yield moves
    finally:
        for hook in hooks:
            hook.remove()


def _across(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else size[1]


def joined(stages: Sequence[Tensor], offsets: Sequence[float]) -> Tensor:
    """Features ``(N, D_k, h_k, w_k)`` of several stages as one map at the finest of their sizes.

    Each position of each stage is scaled to unit length first. One stage alone stays as it is.

    Args:
        offsets: of each stage, see :class:`vipo.structurers.backbones.Features`; the result has the finest one's.
    """
    if len(stages) == 1:
        return stages[0]
    finest = max(range(len(stages)), key=lambda k: stages[k].shape[-1])
    height, width = stages[finest].shape[-2:]
    resized = []
    for stage, offset in zip(stages, offsets, strict=True):
        unit = F.normalize(stage, dim=1)
        if unit.shape[-2:] != (height, width):
            rows = resize_matrix(unit.shape[-2], height, offset, offsets[finest]).to(unit)
            columns = resize_matrix(unit.shape[-1], width, offset, offsets[finest]).to(unit)
            unit = rows @ unit @ columns.mT
        resized.append(unit)
    return torch.cat(resized, dim=1)


def _given(cls: type, options: Mapping[str, Any], name: str) -> Any:
    return options.get(name, signature(cls).parameters[name].default)


def _published(name: str) -> Any:
    """timm's record of the published weights of a model; None where there is none, which the build explains."""
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # no such tag
        return None


def _skeleton(name: str, args: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The model without memory, and the arguments that make it, those that admit any size of picture among them.

    Raises:
        ConfigError: timm has no such model, or cannot make it so.
    """
    import timm

    if not timm.is_model(name.partition('.')[0]):
        raise ConfigError(f'backbone.model: timm has no model {name!r}.{closest(name, timm.list_models())}')
    clash = sorted(set(args) & set(_OURS))
    if clash:
        raise ConfigError(f'backbone.model_args: {", ".join(clash)} cannot be given here')
    with torch.device('meta'):
        try:
            model = timm.create_model(name, **args)
            known = signature(type(model).__init__).parameters
            dynamic = {k: v for k, v in _DYNAMIC.items() if k in known and k not in args}
            return (timm.create_model(name, **args, **dynamic) if dynamic else model), {**args, **dynamic}
        except (TypeError, RuntimeError) as error:
            raise ConfigError(f'backbone.model: timm cannot make {name!r} with {args}: {error}') from error


def _chosen(stages: int | Sequence[int], count: int) -> list[int]:
    asked = [stages] if isinstance(stages, int) else list(stages)
    numbers = sorted({s % count for s in asked if -count <= s < count})
    if not asked or len(numbers) != len(asked):
        raise ValueError(
            f'backbone.stages={stages}: the model has {count} of them, 0 to {count - 1} or -{count} to -1; name one or '
            'several, each once'
        )
    return numbers


def _load(name: str, options: dict[str, Any], pretrained: bool, checkpoint: str | None) -> nn.Module:
    """The whole model; with weights, every one of them from where they are said to come from."""
    import timm

    if checkpoint is None:
        published = _published(name)
        if pretrained and not (published is not None and published.has_weights):
            raise ValueError(
                f'backbone.model: there are no weights of {name!r} on the hub; give backbone.checkpoint, or '
                'backbone.pretrained=False for random ones'
            )
        return timm.create_model(name, pretrained=pretrained, **options)
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise ValueError(f'backbone.checkpoint: {checkpoint!r} is no file on this machine')
    try:
        if path.suffix != '.safetensors':
            # Versions of timm before 1.0.26 would run code that a pickle holds.
            torch.load(path, map_location='cpu', weights_only=True, mmap=is_zipfile(path))
    except Exception as error:
        # The first sentence: torch goes on to advise how to run the code.
        said = str(error).partition('. ')[0]
        raise ValueError(
            f'backbone.checkpoint: {path} cannot be read ({type(error).__name__}: {said}). It is damaged, or it holds '
            'more than tensors and plain values, which is never executed here'
        ) from error
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={'file': str(path)}, **options)
    except Exception as error:
        raise ValueError(
            f'backbone.checkpoint: {path} does not fit {name!r} of timm: {type(error).__name__}: {error}'
        ) from error
