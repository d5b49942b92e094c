"""Which files of a model are still missing from the local cache of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

#: Any one set of these makes a tokenizer.
_VOCABULARIES = (
    ('tokenizer.json',),
    ('vocab.txt',),
    ('vocab.json', 'merges.txt'),
    ('spiece.model',),
    ('tokenizer.model',),
)
#: Names of weights as diffusers and transformers write them; several files have an index beside them.
_WEIGHTS = (
    'diffusion_pytorch_model.safetensors',
    'model.safetensors',
    'diffusion_pytorch_model.bin',
    'pytorch_model.bin',
)
_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth')


def lacking(
    model: str, option: str = 'pretrained', files: Iterable[str] | None = None, revision: str | None = None
) -> list[str]:
    """What has to be fetched before a model can be loaded; empty where the cache is enough.

    Looked at are the files that will be loaded: those that are named, else every component of a diffusers pipeline, the
    weights of a transformers model with all shards of their index, or a tokenizer. Files of an aborted download are not
    there yet.

    Args:
        model: a hub id.
        option: the option of a config that names it; one that ends in ``tokenizer`` loads nothing else.
        files: names of the files that are loaded, where the component says so.
        revision: commit from which those files are taken; None is the newest one.
    """
    if files is not None:
        return [name for name in files if _cached(model, name, revision) is None]
    if option.endswith('tokenizer'):
        return _lacking_tokenizer(model, '')
    index = _cached(model, 'model_index.json')
    if index is not None:
        return [name for part, kind in _parts(index) for name in _lacking_part(model, part, kind)]
    if _cached(model, 'config.json') is not None:
        return _lacking_weights(model, '')
    return [] if _holds_weights(model) else ['its files']


def _cached(model: str, name: str, revision: str | None = None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        model, name, revision=revision
    )  # neither a known absence nor a link without its blob is a file
    return Path(found) if isinstance(found, str) else None


def _parts(index: Path) -> list[tuple[str, str]]:
    """Name and class of each component of a pipeline."""
    entries = {k: v for k, v in json.loads(index.read_text()).items() if isinstance(v, list) and len(v) == 2}
    return [(name, kind) for name, (_, kind) in entries.items() if isinstance(kind, str)]


def _lacking_part(model: str, part: str, kind: str) -> list[str]:
    if 'Tokenizer' in kind:
        return _lacking_tokenizer(model, f'{part}/')
    if 'Scheduler' in kind:
        return lacking(model, part, [f'{part}/scheduler_config.json'])
    if kind.endswith(('Processor', 'FeatureExtractor')):
        return lacking(model, part, [f'{part}/preprocessor_config.json'])
    return lacking(model, part, [f'{part}/config.json']) + _lacking_weights(model, f'{part}/')


def _lacking_tokenizer(model: str, folder: str) -> list[str]:
    sets = [[folder + name for name in names] for names in _VOCABULARIES]
    return [] if any(not lacking(model, 'pretrained', names) for names in sets) else [f'{folder}tokenizer.json']


def _lacking_weights(model: str, folder: str) -> list[str]:
    for name in _WEIGHTS:
        if _cached(model, folder + name) is not None:
            return []
        index = _cached(model, f'{folder}{name}.index.json')
        if index is not None:
            shards = sorted(set(json.loads(index.read_text())['weight_map'].values()))
            return lacking(model, 'pretrained', [folder + shard for shard in shards])
    return [f'{folder}{_WEIGHTS[0] if folder else _WEIGHTS[1]}']


def _holds_weights(model: str) -> bool:
    """Of a repository whose files nobody named: there are weights, and no download of it was cut off."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return False
    for repo in repos:
        if repo.repo_id == model and repo.repo_type == 'model' and 'main' in repo.refs:
            whole = not any((repo.repo_path / 'blobs').glob('*.incomplete'))
            return whole and any(file.file_name.endswith(_SUFFIXES) for file in repo.refs['main'].files)
    return False
