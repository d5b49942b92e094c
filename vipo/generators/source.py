"""A diffusers pipeline before its weights are loaded: what it is made of, and what the config files say."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vipo.assets import resolve
from vipo.assets.intact import check_pipeline, check_weights, load_transformers, read_object
from vipo.generators.architectures import ARCHITECTURES
from vipo.generators.cache import fingerprint
from vipo.registry.build import torch_dtype


class Source(ABC):
    """The config files of a pipeline: a few kilobytes that say everything about sizes and names.

    What can be wrong about those is found from here, before gigabytes of weights are touched.

    Args:
        pretrained: for messages.
        index: as in ``model_index.json``.
        pipeline_class: the pipeline that it must be.

    Raises:
        ValueError: it is another pipeline.
    """

    def __init__(self, pretrained: str, index: dict[str, Any], pipeline_class: str) -> None:
        self.index = index
        found = index.get('_class_name')
        if found != pipeline_class:
            raise ValueError(
                f'generator.pretrained {pretrained!r} holds a {found}, and this generator needs a {pipeline_class}'
            )

    def has(self, name: str) -> bool:
        """Whether the pipeline has this component."""
        return self.index.get(name, (None, None))[1] is not None

    @property
    @abstractmethod
    def scheduler(self) -> dict[str, Any]:
        """The scheduler's options."""

    @abstractmethod
    def text_parameters(self, names: Iterable[str]) -> int | None:
        """Parameters of the text encoders, where nothing has to be loaded to tell.

        Args:
            names: components that encode texts; the pipeline need not have all of them.
        """

    @abstractmethod
    def skeleton(self, name: str, device: str = 'meta') -> nn.Module:
        """The component without its weights; its ``config`` has the defaults filled in. On another device than meta
        its weights are random.
        """

    def random(self, dtype: dict[str, torch.dtype], names: Iterable[str], device: torch.device | str) -> Any:
        """The pipeline with random weights in these components, and without all others but the scheduler.

        Args:
            dtype: by component or ``default``.
        """
        import diffusers

        parts: dict[str, Any] = {}
        before = torch.get_default_dtype()
        for name in names:
            torch.set_default_dtype(dtype.get(name, dtype['default']))
            try:
                with torch.random.fork_rng():  # always the same numbers: on every rank, and after a resume
                    torch.manual_seed(0)
                    parts[name] = self.skeleton(name, str(device)).eval()
            finally:
                torch.set_default_dtype(before)
            cast_as_loaded(parts[name], dtype.get(name, dtype['default']))
        if 'flow_shift' in self.scheduler:  # Wan's
            flow = {'prediction_type': 'flow_prediction', 'use_flow_sigmas': True}
            parts['scheduler'] = diffusers.UniPCMultistepScheduler.from_config({**self.scheduler, **flow})
        else:
            parts['scheduler'] = diffusers.FlowMatchEulerDiscreteScheduler.from_config(self.scheduler)
        cls = getattr(diffusers, self.index['_class_name'])
        known = signature(cls.__init__).parameters
        extras = {k: v for k, v in self.index.items() if k in known and not isinstance(v, (list, tuple))}
        missing = {k: None for k, p in known.items() if p.default is Parameter.empty and k not in ('self', *parts)}
        pipe = cls(**{**missing, **extras, **parts})
        pipe.set_progress_bar_config(disable=True)
        return pipe


class PipelineSource(Source):
    """A diffusers folder or hub repository.

    Args:
        pretrained: a diffusers folder, hub id or ``vipo://`` asset.
        pipeline_class: the name of the pipeline class that it must hold.

    Raises:
        ValueError: it holds another pipeline.
        OSError: it cannot be reached or is no diffusers pipeline.
    """

    def __init__(self, pretrained: str, pipeline_class: str) -> None:
        import diffusers

        self.path = resolve(pretrained)
        self._class = getattr(diffusers, pipeline_class)
        if (local := Path(self.path)).is_dir():
            read_object(local / 'model_index.json')
        elif local.is_file():
            raise ValueError(
                f'generator.pretrained {pretrained!r} is a file, and a folder in the layout of diffusers is needed'
            )
        super().__init__(pretrained, self._class.load_config(self.path), pipeline_class)
        if local.is_dir():
            check_pipeline(local, self.index)

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        return self._component_class('scheduler').load_config(self.path, subfolder='scheduler')

    def skeleton(self, name: str, device: str = 'meta') -> nn.Module:
        cls = self._component_class(name)
        with torch.device(device):
            return cls.from_config(cls.load_config(self.path, subfolder=name))

    def text_parameters(self, names: Iterable[str]) -> int | None:
        if not Path(self.path).is_dir():
            return None
        counts = [count_stored(Path(self.path) / name) for name in names if self.has(name)]
        return None if None in counts else sum(counts)

    def load(self, dtype: dict[str, torch.dtype], without: Iterable[str] = ()) -> Any:
        """The pipeline with its weights, but for those of ``without``; ``dtype`` by component or ``default``.

        Raises:
            ValueError: the weights of a text encoder do not fit its config.
        """
        parts: dict[str, nn.Module | None] = dict.fromkeys(without)
        for name, cls in self._models_of_transformers().items():
            if name not in parts:
                parts[name] = load_transformers(cls, self.path, dtype.get(name, dtype['default']), name, part=True)
        pipe = self._class.from_pretrained(self.path, dtype=dtype, **parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def check_weights(self, name: str, skeleton: nn.Module) -> None:
        """Compare the stored weights of a component with its skeleton, where they are on this machine.

        Raises:
            ValueError: they do not fit.
        """
        if Path(self.path).is_dir():
            shapes = {key: tuple(x.shape) for key, x in skeleton.state_dict().items()}
            ignored = getattr(skeleton, '_keys_to_ignore_on_load_unexpected', None) or ()
            check_weights(Path(self.path) / name, shapes, ignored)

    def identity(self, parts: Iterable[str]) -> str:
        """What tells these components from others of the same name: their files, or the commit of the repository."""
        if Path(self.path).is_dir():
            return fingerprint(self.path, parts)
        from huggingface_hub import try_to_load_from_cache

        # .../snapshots/<commit>/model_index.json, which reading the index has put there
        return f'{self.path}@{Path(try_to_load_from_cache(self.path, self._class.config_name)).parent.name}'

    def _models_of_transformers(self) -> dict[str, Any]:
        """Classes of the components that are models of transformers."""
        import transformers

        named = {n: e[1] for n, e in self.index.items() if isinstance(e, (list, tuple)) and e[0] == 'transformers'}
        found = {name: getattr(transformers, cls, None) for name, cls in named.items()}
        return {name: cls for name, cls in found.items() if hasattr(cls, 'base_model_prefix')}

    def _component_class(self, name: str) -> Any:
        import diffusers

        return getattr(diffusers, self.index[name][1])


class PublishedSource(Source):
    """A published model whose architecture this project knows; there is nothing to load.

    Args:
        pretrained: a key of :data:`vipo.generators.architectures.ARCHITECTURES`.
        pipeline_class: see :class:`Source`.
    """

    def __init__(self, pretrained: str, pipeline_class: str) -> None:
        self.architecture = ARCHITECTURES[pretrained]
        super().__init__(pretrained, self.architecture.index, pipeline_class)

    @property
    def scheduler(self) -> dict[str, Any]:
        return self.architecture.scheduler

    def text_parameters(self, names: Iterable[str]) -> int | None:
        return sum(self.architecture.text_encoders.values()) * 10**6

    def skeleton(self, name: str, device: str = 'meta') -> nn.Module:
        return self.architecture.skeleton(name, device)


def describe_source(pretrained: str, pipeline_class: str) -> Source:
    """What is known without loading anything: published models from this project's table, others from their files."""
    if pretrained in ARCHITECTURES and resolve(pretrained) == pretrained and not Path(pretrained).exists():
        return PublishedSource(pretrained, pipeline_class)
    return PipelineSource(pretrained, pipeline_class)


def cast_as_loaded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give the parameters the precision that they have after loading in ``dtype``: some modules stay in float32."""
    kept = set(getattr(network, '_keep_in_fp32_modules', None) or ())
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if kept & set(name.split('.')) else dtype)
    return network


def count_stored(folder: Path) -> int | None:
    """Parameters in the weights of a transformers model, from the headers of its safetensors files.

    Of an index without its files, ``total_size`` is divided by the width of the precision that the config names. None
    where there is neither.
    """
    from safetensors import safe_open

    content: dict[str, Any] = {}
    files = [folder / 'model.safetensors']
    index = folder / 'model.safetensors.index.json'
    if not files[0].is_file():
        if not index.is_file():
            return None
        content = json.loads(index.read_text())
        files = [folder / name for name in sorted(set(content['weight_map'].values()))]
    if all(file.is_file() for file in files):
        count = 0
        for file in files:
            with safe_open(file, 'pt') as tensors:
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        return count
    config = json.loads((folder / 'config.json').read_text())
    precision = torch_dtype(config.get('dtype') or config.get('torch_dtype') or 'float32')
    return content['metadata']['total_size'] // precision.itemsize
