"""How the prompts of a diffusers pipeline become conditioning, and how its text encoders leave memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vipo.generators.base import Conditioning, Generator
from vipo.generators.cache import PromptCache
from vipo.generators.made_up import made_up_texts
from vipo.generators.source import PipelineSource

#: What the names of the unconditional branch's tensors begin with.
NEGATIVE = 'negative_'


class PromptEncoding(Generator):
    """A generator that encodes its prompts with the text encoders of a diffusers pipeline, or reads them from a cache.

    A family says how texts are encoded; which ones are, and when, is here.
    """

    #: Name of the pipeline class in diffusers.
    pipeline_class: ClassVar[str]
    transformers: ClassVar[tuple[str, ...]]
    #: Components that encode texts.
    text_encoders: ClassVar[tuple[str, ...]]
    init: str
    pipe: Any
    source: PipelineSource
    cache: PromptCache | None
    compute_dtype: torch.dtype
    negative_prompt: str
    max_sequence_length: int
    encode_batch: int
    _dtypes: dict[str, torch.dtype]

    @abstractmethod
    def encode_texts(self, texts: list[str]) -> dict[str, Tensor]:
        """What the transformer takes of N texts, named tensors whose first axis is N."""

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what :meth:`encode_texts` gives of one text; ``mask`` holds integers, everything else floats."""

    @property
    @abstractmethod
    def guided(self) -> bool:
        """Whether any step uses classifier-free guidance."""

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        tensors = self._encode(list(prompts))
        if self.guided:
            negative = self._encode([self.negative_prompt])
            tensors |= {NEGATIVE + k: v.expand(len(prompts), *v.shape[1:]) for k, v in negative.items()}
        return Conditioning(tensors)

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        if self.init == 'random':
            return made_up_texts(texts, self.text_shapes(), self.device, self.compute_dtype)
        if self.cache is None:
            starts = range(0, len(texts), self.encode_batch)
            parts = [self.encode_texts(texts[i : i + self.encode_batch]) for i in starts]
            return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        self._fill_cache(texts)
        found = [self.cache.read(text) for text in texts]
        return {k: torch.stack([f[k] for f in found]) for k in found[0]}

    def _encoding(self, source: PipelineSource) -> dict[str, Any]:
        """Everything that the encoding of a text depends on."""
        import transformers

        parts = [n for n in source.index if n.startswith(('text_encoder', 'tokenizer')) and source.has(n)]
        return {
            'class': self.pipeline_class,
            'files': source.identity(parts),
            'length': self.max_sequence_length,
            'dtype': str(self.compute_dtype),
            'transformers': transformers.__version__.partition('.')[0],
            **self.encoding_options(),
        }

    def encoding_options(self) -> dict[str, Any]:
        """A family's own options that change the encoding of a text."""
        return {}

    def unencoded(self, prompts: Sequence[str]) -> list[str]:
        if self.cache is None:
            return []
        return self.cache.missing([*prompts, *([self.negative_prompt] if self.guided else [])])

    def encode_ahead(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> None:
        if self.cache is not None:
            self._fill_cache(list(texts), advance)

    @torch.no_grad()
    def _fill_cache(self, texts: list[str], advance: Callable[[int], None] = lambda _: None) -> None:
        missing = self.cache.missing(texts)
        if not missing:
            return
        self.load_text_encoders()
        self.cache.fill(missing, self.encode_texts, self.encode_batch, advance)
        self.pipe.register_modules(**dict.fromkeys(self.text_encoders))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def load_text_encoders(self) -> None:
        """Bring the text encoders back to the denoiser's device."""
        others = [n for n in self.source.index if n in ('vae', *self.transformers)]
        loaded = self.source.load(self._dtypes, others)
        for name in self.text_encoders:
            module = getattr(loaded, name)
            if module is not None:
                self.pipe.register_modules(**{name: freeze(module).to(self.device)})


def freeze(module: nn.Module | None) -> nn.Module | None:
    return None if module is None else module.eval().requires_grad_(False)
