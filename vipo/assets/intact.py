"""Whether a model is whole: a folder on this machine from its small files, and what was loaded by its names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from transformers import PreTrainedModel

PreTrained = TypeVar('PreTrained', bound='PreTrainedModel')

#: Files that hold a JSON object with something in it.
_OBJECTS = (
    'model_index.json',
    'config.json',
    'scheduler_config.json',
    'open_clip_config.json',
    'preprocessor_config.json',
    'tokenizer.json',
)
#: Any of these makes a tokenizer.
_TOKENIZERS = (
    'tokenizer.json',
    'vocab.json',
    'vocab.txt',
    'spiece.model',
    'tokenizer.model',
    'sentencepiece.bpe.model',
)
#: Beginning of a component's name -> the files of which it needs one.
_DESCRIBED = {
    'transformer': ('config.json',),
    'vae': ('config.json',),
    'text_encoder': ('config.json',),
    'scheduler': ('scheduler_config.json',),
    'tokenizer': _TOKENIZERS,
}
#: What old checkpoints name otherwise, and diffusers renames.
_RENAMED = ('.query.', '.key.', '.value.', '.proj_attn.')


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object that is not empty.

    Raises:
        ValueError: the file is missing or holds none.
    """
    try:
        content = json.loads(file.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f'{file} cannot be read as JSON: {error}') from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{file} must hold a JSON object with something in it, got {str(content)[:50]}')
    return content


def check_folder(folder: Path) -> None:
    """Read the descriptions, the tokenizer and the headers of the weights in a folder, and in no folder below it.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    for file in sorted(folder.iterdir()):
        check_file(file)


def check_file(file: Path) -> None:
    """The same for one file; one of another kind passes.

    Raises:
        ValueError: it is damaged.
    """
    if file.name in _OBJECTS:
        content = read_object(file)
        if file.name == 'tokenizer.json' and not {'model', 'added_tokens'} <= content.keys():
            raise ValueError(f'{file} describes no tokenizer: it has no "model" or no "added_tokens"')
    elif file.suffix == '.safetensors':
        stored_shapes(file)


def check_pipeline(folder: Path, index: Mapping[str, Any]) -> None:
    """:func:`check_folder` of each component of a diffusers folder.

    Args:
        index: as in ``model_index.json``.

    Raises:
        ValueError: a folder or file is missing or damaged.
    """
    for name, entry in index.items():
        described = next((file for start, file in _DESCRIBED.items() if name.startswith(start)), None)
        if described is None or not isinstance(entry, (list, tuple)) or not isinstance(entry[-1], str):
            continue
        part = folder / name
        if not part.is_dir():
            raise ValueError(f'{folder} has no folder {name}, which its model_index.json names')
        check_folder(part)
        if not any((part / file).is_file() for file in described):
            raise ValueError(f'{part} has no {" or ".join(described)}')


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header.

    Raises:
        ValueError: it is none, or it is cut off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, 'pt') as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{file} cannot be read as safetensors, it is damaged or cut off: {error}') from error


def check_weights(folder: Path, expected: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()) -> None:
    """Compare the weights of a diffusers component with what its config makes; left to itself diffusers goes on with
    random weights where some are missing.

    Args:
        expected: names and shapes.
        ignored: patterns of names that may be left over.

    Raises:
        ValueError: a tensor is missing, left over or of another shape.
    """
    files = [folder / 'diffusion_pytorch_model.safetensors']
    index = folder / 'diffusion_pytorch_model.safetensors.index.json'
    if index.is_file():
        files = [folder / name for name in sorted(set(read_object(index).get('weight_map', {}).values()))]
    elif not files[0].is_file():
        return  # another format or variant, which is left to diffusers
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= stored_shapes(file)
    if any(old in name for name in found for old in _RENAMED):
        return
    problems = [f'missing {name}' for name in expected if name not in found]
    left = [name for name in found if name not in expected and not any(re.search(p, name) for p in ignored)]
    problems += [f'unexpected {name}' for name in left]
    problems += [
        f'{name} has shape {found[name]} instead of {shape}'
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    refuse_misfit(problems, folder)


def refuse_misfit(problems: Sequence[str], source: str | Path) -> None:
    """Say how the weights in ``source`` differ from what the model of their config has.

    Raises:
        ValueError: there is a problem.
    """
    if problems:
        more = f' and {len(problems) - 5} more' if len(problems) > 5 else ''
        raise ValueError(f'{source} does not fit the model of its config: {"; ".join(problems[:5])}{more}')


def load_transformers(
    model_class: type[PreTrained],
    place: str,
    dtype: torch.dtype,
    subfolder: str = '',
    part: bool = False,
    unused: tuple[str, ...] = (),
) -> PreTrained:
    """A model of transformers, frozen and in evaluation mode; nothing of it stays at random values.

    Left to itself ``from_pretrained`` prints a table of what is missing or left over and goes on.

    Args:
        place: folder or hub id.
        part: the checkpoint may hold more than the model, such as another tower.
        unused: beginnings of names that may be missing.

    Raises:
        ValueError: a weight is missing or of another shape, or where the model is no part of the checkpoint, left over.
        OSError: there is no such model within reach.
    """
    model, info = model_class.from_pretrained(
        place,
        subfolder=subfolder,
        dtype=dtype,
        output_loading_info=True,
        # Shapes that differ are then reported with the rest, in place of an error of another kind.
        ignore_mismatched_sizes=True,
    )
    problems = [f'missing {key}' for key in sorted(info['missing_keys']) if not key.startswith(unused)]
    problems += [f'unexpected {key}' for key in sorted(info['unexpected_keys']) if not part]
    problems += [
        f'{key} has shape {tuple(found)} instead of {tuple(wanted)}'
        for key, found, wanted in sorted(info['mismatched_keys'])
    ]
    refuse_misfit([*problems, *info['error_msgs']], Path(place) / subfolder if subfolder else place)
    return model.eval().requires_grad_(False)
