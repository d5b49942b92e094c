"""Says in seconds which models and files a config needs that are neither on this machine nor within reach."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vipo.assets import resolve
from vipo.engine.hub_cache import lacking
from vipo.generators.architectures import ARCHITECTURES
from vipo.registry import ConfigError
from vipo.registry.lookup import component_class, components_of

_REHEARSE = 'or run the whole config now with tiny random models of the same classes: add --rehearse'


class Needed(NamedTuple):
    """A model that a config would load from the hub.

    Attributes:
        key: config key that names it.
        model: hub id.
        files: names of the files that are loaded, where the component says so.
        revision: commit from which they are taken, where the component says so.
    """

    key: str
    model: str
    files: list[str] | None = None
    revision: str | None = None


def needed(cfg: Mapping[str, Any]) -> Iterator[Needed]:
    """Every model that the components of a config would load from the hub.

    A component class says so with a class method ``hub_models(options) -> {option: hub id}``; places on this machine
    are left out. One that loads single files names them with ``hub_files(options) -> {option: [name]}``, and one that
    takes them from a certain commit with ``hub_revisions(options) -> {option: commit}``.
    """
    for key, section in components_of(cfg):
        cls = component_class(section['type'])
        if hasattr(cls, 'hub_models'):
            options = {k: v for k, v in section.items() if k != 'type'}
            files = cls.hub_files(options) if hasattr(cls, 'hub_files') else {}
            revisions = cls.hub_revisions(options) if hasattr(cls, 'hub_revisions') else {}
            made_up = section.get('init') == 'random'
            for option, model in cls.hub_models(options).items():
                if not _is_here(model) and not (made_up and model in ARCHITECTURES):
                    yield Needed(f'{key}.{option}', model, files.get(option), revisions.get(option))


def check_reach(cfg: Mapping[str, Any]) -> None:
    """Stop before anything is loaded where a model can be had neither from the cache nor from the hub.

    A component class that needs a file of the user's looks for it in a class method ``check_files(options)``, which
    raises ValueError.

    Raises:
        ConfigError: with every such model and file, why, and the ways out.
    """
    problems = list(_missing_files(cfg))
    wanted = [(n.key, n.model, _trouble(n.model, lacking(n.model, n.key, n.files, n.revision))) for n in needed(cfg)]
    absent = [(key, model, trouble) for key, model, trouble in wanted if trouble is not None]
    if not absent:
        if problems:
            raise ConfigError('\n'.join([*problems, _REHEARSE]))
        return
    lines = [f'  {model}, for {key}: {trouble}' for key, model, trouble in absent]
    example = ' '.join(f'{key}=/path/to/it' for key, _, _ in absent)
    raise ConfigError(
        'this config needs models that are not on this machine and cannot be fetched now:\n'
        + '\n'.join(lines)
        + f'\nPoint at copies of your own with --cfg-options {example}\n'
        + _REHEARSE
        + ''.join(f'\nIt also lacks this: {problem}' for problem in problems)
    )


def _missing_files(cfg: Mapping[str, Any]) -> Iterator[str]:
    for key, section in components_of(cfg):
        cls = component_class(section['type'])
        if hasattr(cls, 'check_files'):
            try:
                cls.check_files({k: v for k, v in section.items() if k != 'type'})
            except ValueError as error:
                said = str(error).replace('reward.template', f'{key}.template')  # a reward knows no other place
                yield said if f'{key}.' in said else f'{key}: {said}'


def _is_here(model: str) -> bool:
    """Whether a name is a place on this machine, or a mistake that the build explains."""
    try:
        return resolve(model) != model or os.path.exists(model)
    except ValueError:
        return True


def _trouble(model: str, missing: list[str]) -> str | None:
    """Why a model that lacks these files in the cache cannot be loaded; None where it can."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if not missing:
        return None
    if constants.HF_HUB_OFFLINE:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        return f'HF_HUB_OFFLINE is set and the cache lacks {missing[0]}{more}'
    page = f'https://huggingface.co/{model}'
    try:
        HfApi().auth_check(model)
    except GatedRepoError:
        return f'gated; accept its licence at {page} and log in with `hf auth login`'
    except RepositoryNotFoundError:
        return f'there is no such repository, or it is private and you are not logged in (`hf auth login`); see {page}'
    except Exception as error:  # whatever the network does: it is reported, and nothing goes on
        note = ' (gated: its licence has to be accepted there)' if model in GATED else ''
        return f'the hub cannot be reached ({type(error).__name__}); it lies at {page}{note}'
    return None


#: Published models of ours that are gated, for when the hub cannot be asked.
GATED = frozenset(
    [
        'black-forest-labs/FLUX.1-dev',
        'facebook/dinov3-convnext-base-pretrain-lvd1689m',
        'facebook/dinov3-convnext-large-pretrain-lvd1689m',
        'facebook/dinov3-convnext-small-pretrain-lvd1689m',
        'facebook/dinov3-convnext-tiny-pretrain-lvd1689m',
        'facebook/dinov3-vit7b16-pretrain-lvd1689m',
        'facebook/dinov3-vit7b16-pretrain-sat493m',
        'facebook/dinov3-vitb16-pretrain-lvd1689m',
        'facebook/dinov3-vith16plus-pretrain-lvd1689m',
        'facebook/dinov3-vitl16-pretrain-lvd1689m',
        'facebook/dinov3-vitl16-pretrain-sat493m',
        'facebook/dinov3-vits16-pretrain-lvd1689m',
        'facebook/dinov3-vits16plus-pretrain-lvd1689m',
        'stabilityai/stable-diffusion-3-medium-diffusers',
        'stabilityai/stable-diffusion-3.5-medium',
        'stabilityai/stable-diffusion-3.5-large',
    ]
)
