"""A diffusers pipeline before its weights are loaded: what it is made of, and what the config files say."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vipo.assets import resolve
from vipo.generators.cache import fingerprint


class PipelineSource:
    """The config files of a diffusers folder or hub repository.

    They are a few kilobytes, so everything that can be wrong about sizes and names is found before the weights are
    touched.

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
        self.index: dict[str, Any] = self._class.load_config(self.path)
        found = self.index.get('_class_name')
        if found != pipeline_class:
            raise ValueError(
                f'generator.pretrained {pretrained!r} holds a {found}, and this generator needs a {pipeline_class}'
            )

    def has(self, name: str) -> bool:
        """Whether the pipeline has this component."""
        return self.index.get(name, (None, None))[1] is not None

    @cached_property
    def scheduler(self) -> dict[str, Any]:
        """The scheduler's options."""
        return self._component_class('scheduler').load_config(self.path, subfolder='scheduler')

    def skeleton(self, name: str) -> nn.Module:
        """The component without weights, on the meta device; its ``config`` has the defaults filled in."""
        cls = self._component_class(name)
        with torch.device('meta'):
            return cls.from_config(cls.load_config(self.path, subfolder=name))

    def load(self, dtype: dict[str, torch.dtype], without: Iterable[str] = ()) -> Any:
        """The pipeline with its weights, but for those of ``without``; ``dtype`` by component or ``default``."""
        pipe = self._class.from_pretrained(self.path, dtype=dtype, **dict.fromkeys(without))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def identity(self, parts: Iterable[str]) -> str:
        """What tells these components from others of the same name: their files, or the commit of the repository."""
        if Path(self.path).is_dir():
            return fingerprint(self.path, parts)
        from huggingface_hub import try_to_load_from_cache

        # .../snapshots/<commit>/model_index.json, which reading the index has put there
        return f'{self.path}@{Path(try_to_load_from_cache(self.path, self._class.config_name)).parent.name}'

    def _component_class(self, name: str) -> Any:
        import diffusers

        return getattr(diffusers, self.index[name][1])
