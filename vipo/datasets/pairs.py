"""Which prompt belongs to which file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from vipo.datasets.prompts import read_prompts
from vipo.registry import ConfigError


def read_pairs(files: list[Path], prompts: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """Files with their records, ``{'prompt': str, ...}``.

    Args:
        files: may be empty where the prompts come from a table that names the files.
        prompts: one text for all files; one for each; or one file: ``.txt`` with a line for each, or ``.jsonl`` or
            ``.csv`` with ``prompt``, perhaps ``path`` (relative to the folder of that table), and other columns.

    Raises:
        ConfigError: the numbers differ, a file is in no row or in two, or a table cannot be read.
    """
    if len(prompts) > 1 or Path(prompts[0]).suffix not in ('.txt', '.jsonl', '.csv'):
        return _in_order(files, [{'prompt': text} for text in prompts], f'{len(prompts)} prompts')
    table = Path(prompts[0]).expanduser()
    records = _read_csv(table) if table.suffix == '.csv' else read_prompts(str(table))
    if not any('path' in record for record in records):
        return _in_order(files, records, f'{len(records)} prompts in {table}')
    rows: dict[Path, tuple[Path, dict[str, Any]]] = {}
    for number, record in enumerate(records, 1):
        if not isinstance(record.get('path'), str) or not record['path']:
            raise ConfigError(f'{table}: prompt {number} has no path, and others have')
        path = table.parent / record['path']
        if path.resolve() in rows:
            raise ConfigError(f'{table} names {record["path"]!r} twice')
        rows[path.resolve()] = path, record
    if not files:
        if missing := [path for path, _ in rows.values() if not path.is_file()]:
            raise ConfigError(f'{table} names {str(missing[0])!r}, which does not exist')
        return list(rows.values())
    if lost := [path for path in files if path.resolve() not in rows]:
        raise ConfigError(f'{table} names no prompt for {str(lost[0])!r}; its paths start at its own folder')
    return [(path, rows[path.resolve()][1]) for path in files]


def _in_order(files: list[Path], records: list[dict[str, Any]], what: str) -> list[tuple[Path, dict[str, Any]]]:
    if not files:
        raise ConfigError('no files are given, and the prompts come from no table with a column path')
    if len(records) == 1:
        records = records * len(files)
    if len(records) != len(files):
        raise ConfigError(f'{len(files)} files but {what}; one prompt serves for all, otherwise each file has its own')
    return [(path, dict(record)) for path, record in zip(files, records, strict=True)]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode('utf-8-sig')
        rows = list(csv.DictReader(io.StringIO(text, newline=''), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f'{path} cannot be read as CSV in UTF-8: {error}') from error
    if not rows or 'prompt' not in rows[0]:
        raise ConfigError(f'{path} must have a column prompt and at least one row')
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ConfigError(f'{path}: row {number} has another number of columns than the first line')
        if not row['prompt'].strip():
            raise ConfigError(f'{path}: the prompt of row {number} is empty')
    return rows
