"""Prompt files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from vipo.assets import resolve
from vipo.registry import DATASETS, ConfigError


def read_prompts(path: str) -> list[dict[str, Any]]:
    """Records ``{'prompt': str, ...}`` of a prompt file.

    ``.txt`` holds one prompt a line; ``.jsonl`` one JSON object a line with the key ``prompt`` and whatever else a
    reward wants to know.

    Raises:
        ConfigError: the file is missing, not UTF-8, empty, or has an empty or unreadable line; the message gives the
            line.
    """
    place = Path(resolve(path)) if path.startswith('vipo://') else Path(path).expanduser()
    if not place.is_file():
        raise ConfigError(f'prompt file {str(place)!r} does not exist (relative paths start where you run the command)')
    try:
        text = place.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b'\n') + 1
        raise ConfigError(
            f'prompt file {place} is not UTF-8: line {line} holds the byte 0x{error.object[error.start]:02x}. '
            'Save it as UTF-8.'
        ) from None
    if '\0' in text:
        raise ConfigError(f'prompt file {place} holds zero bytes, so it is no text')
    # Not splitlines: that also splits at U+2028 and its like, which JSON and prose may hold inside a line.
    lines = [line.rstrip('\n') for line in io.StringIO(text, newline=None)]
    if not lines:
        raise ConfigError(f'prompt file {place} is empty')
    parse = _parse_json if place.suffix == '.jsonl' else _parse_text
    return [parse(line, f'prompt file {place}, line {i}') for i, line in enumerate(lines, 1)]


def _parse_text(line: str, where: str) -> dict[str, Any]:
    if not line.strip():
        raise ConfigError(f'{where}: the prompt is empty. Remove the line or write a prompt.')
    return {'prompt': line.strip()}


def _parse_json(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f'{where}: not JSON ({error})') from None
    if not isinstance(record, dict) or not isinstance(record.get('prompt'), str):
        raise ConfigError(f'{where}: needs an object with a text under "prompt"')
    return {**record, **_parse_text(record['prompt'], where)}


def collate_prompts(items: list[dict[str, Any]]) -> dict[str, list]:
    """One list per key. Metadata stays a list of records, which may differ in their keys."""
    return {key: [item[key] for item in items] for key in items[0]}


@DATASETS.register_module()
class PromptDataset(Dataset):
    """The prompts of a file; an item is ``{'prompt', 'prompt_id', 'metadata'}``.

    Args:
        file: see :func:`read_prompts`.
        limit: only the first so many prompts.
    """

    def __init__(self, file: str, limit: int | None = None) -> None:
        self.metainfo: dict[str, Any] = {'file': file}
        self.records = read_prompts(file)[:limit]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return {'prompt': record['prompt'], 'prompt_id': index, 'metadata': record}
