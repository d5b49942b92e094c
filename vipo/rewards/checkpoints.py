"""Finds the checkpoint of a reward, and loads it with every key accounted for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from vipo.assets import resolve
from vipo.assets.intact import PreTrained, load_transformers, refuse_misfit
from vipo.registry.build import torch_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Model = TypeVar('Model', bound=nn.Module)


def locate_file(checkpoint: str | None, hub: str, name: str, option: str = 'checkpoint') -> Path:
    """The file that an option points at: one on this machine, or else ``name`` of the hub repository ``hub``.

    Args:
        checkpoint: a file, a folder that holds ``name`` or else exactly one checkpoint, a ``vipo://`` asset, or None
            for the hub.
        option: for messages.

    Raises:
        ValueError: there is no such place, or a folder holds no single checkpoint.
    """
    if checkpoint is None:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(hub, name))
    path = Path(resolve(checkpoint))
    if path.is_dir():
        if (path / name).is_file():
            return path / name
        found = sorted(p for suffix in ('safetensors', 'pt', 'pth') for p in path.glob(f'*.{suffix}'))
        if len(found) != 1:
            raise ValueError(
                f'{option}: {path} must hold {name} or exactly one .safetensors, .pt or .pth file, found {len(found)}'
            )
        return found[0]
    if not path.is_file():
        raise ValueError(f'{option}: {checkpoint!r} does not exist; it names a file or a folder on this machine')
    return path


def published_bytes(options: Mapping[str, Any], parameters: int, dtype: str = 'float32') -> int | None:
    """Bytes of the weights that a config with these options loads, for a plan.

    Args:
        parameters: of the published checkpoint.
        dtype: the reward's default.

    Returns:
        None where ``options['checkpoint']`` names another checkpoint, whose size nobody knows here.
    """
    return None if options.get('checkpoint') else parameters * torch_dtype(options.get('dtype', dtype)).itemsize


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file; code in it is never executed.

    Args:
        path: ``.safetensors``, or a pickle holding tensors alone, bare or under ``state_dict``. The latter is mapped
            into memory where its format allows.

    Raises:
        ValueError: unreadable, truncated, or holding more than tensors.
    """
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file

            return load_file(path)
        with open(path, 'rb') as file:
            zipped = file.read(2) == b'PK'
        content = torch.load(path, map_location='cpu', weights_only=True, mmap=zipped)
    except Exception as error:
        raise _unreadable(path, error) from error
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f'{path} holds no dict of tensors, neither bare nor under "state_dict"')
    return state


def _unreadable(source: str | Path, error: Exception) -> ValueError:
    # The first sentence: torch goes on to advise how to run code that a pickle holds.
    said = re.split(r'\.\s', str(error), maxsplit=1)[0]
    return ValueError(
        f'{source} cannot be read as a checkpoint of tensors ({type(error).__name__}: {said}). It is truncated or '
        'damaged, or it holds more than tensors; download it again.'
    )


def load_strictly(
    build: Callable[[], Model], state: Mapping[str, Tensor], source: str | Path, computed: Iterable[str] = ()
) -> Model:
    """Build a model and fill it, frozen and in evaluation mode; nothing of it stays at random values.

    Args:
        build: makes the model; no memory is spent on its first weights.
        state: the tensors by the model's own names.
        source: for messages.
        computed: ends of the names of buffers that the model computes and no checkpoint needs to hold.

    Raises:
        ValueError: a key is missing or unexpected, or a shape differs.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # buffers are computed and few; parameters are about to be given
        model = build()
    expected = {k: v.shape for k, v in model.state_dict().items()}
    optional = {k for k in expected if k.endswith(tuple(computed))} if computed else set()
    problems = [f'missing {k}' for k in expected if k not in state and k not in optional]
    problems += [f'unexpected {k}' for k in state if k not in expected]
    problems += [
        f'{k} has shape {tuple(state[k].shape)} instead of {tuple(s)}'
        for k, s in expected.items()
        if k in state and state[k].shape != s
    ]
    refuse_misfit(problems, source)
    # The model takes over the tensors themselves: nothing is held twice, and each keeps its dtype.
    model.load_state_dict(dict(state), strict=False, assign=True)
    return model.eval().requires_grad_(False)


def pretrained_strictly(model_class: type[PreTrained], name: str) -> PreTrained:
    """A model of transformers from a folder or hub repository in its layout, as strictly, in float32.

    The ``position_ids`` that old checkpoints carry are none of what is left over.

    Raises:
        ValueError: the weights cannot be read as tensors alone, or a key is missing or unexpected, or a shape differs.
        OSError: there is no such model within reach.
    """
    from safetensors import SafetensorError

    try:
        return load_transformers(model_class, name, torch.float32)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise _unreadable(name, error) from error


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int, source: str) -> None:
    """Refuse a tokenizer that is not its model's.

    Where a folder holds no tokenizer, transformers makes an empty one without a word, and all prompts are alike.

    Raises:
        ValueError: it has another number of tokens than ``size``.
    """
    if len(tokenizer) != size:
        raise ValueError(
            f'the tokenizer in {source} has {len(tokenizer)} tokens and its model has {size}: its files '
            '(tokenizer.json) are missing, or belong to another model'
        )


def claim(state: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Put a renamed tensor into a state.

    Raises:
        ValueError: there is one of that name: the checkpoint would overwrite its own weights.
    """
    if name in state:
        raise ValueError(f'two tensors of the checkpoint would both become {name!r}')
    state[name] = value


def check_sha256(path: Path, wanted: str) -> None:
    """Refuse a file with other bytes than expected.

    Raises:
        ValueError: the digest differs.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted.lower():
        raise ValueError(f'{path} has sha256 {found} instead of {wanted}: it is damaged, or another file of that name')
