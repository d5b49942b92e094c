"""What a run does with a structurer beside using its maps: it tries it, describes the maps, and warns of empty ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from logging import Logger
from typing import Any

import torch
from torch import Tensor

from vipo.engine.components import Components
from vipo.structurers.base import call_structurer, counters, is_uniform
from vipo.structurers.functional import entropy


@torch.no_grad()
def try_structurer(components: Components, record: Mapping[str, Any]) -> None:
    """Make the map of one sample of noise: a part that does not keep its contract stops the run before it has begun.

    Args:
        record: of a prompt file, as a dataset gives it.

    Raises:
        ConfigError: what the structurer or one of its parts returned is no map, or nothing to make one of.
    """
    c = components
    if c.structurer is None:
        return
    shape = c.generator.latent_shape()
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with c.working('autoencoder'):
        pixels = c.generator.decode(latents.to(c.generator.device))
    with c.working('map'):
        call_structurer(c.structurer, pixels, shape[1:], [record['prompt']], [record['metadata']])


def describe_maps(maps: Tensor, structurer: Any) -> dict[str, float]:
    """What is logged of an iteration's maps ``(N, 1, T, H, W)``, which this structurer just made."""
    flat = maps.flatten(1).abs()  # of a signed map, how strong it is
    top = flat.topk(max(1, flat.shape[1] // 10), dim=1).values.sum(1) / flat.sum(1)
    logs = {
        'map/mean': float(maps.mean()),
        'map/entropy': float(entropy(flat).mean()),
        'map/top_decile_mass': float(top.mean()),
        'map/constant': float((flat.amax(1) - flat.amin(1) < 1e-6).float().mean()),
    }
    counts = sum(counters(structurer), Counter())
    if frames := counts['frames']:
        logs |= {f'map/{kind}_frames': counts[kind] / frames for kind in ('constant', 'broken')}
    if products := counts['products']:
        logs['map/vanished_products'] = counts['vanished'] / products
    return logs


class EvenMapWarning:
    """Says once, with the first such iteration, that most maps tell no position from another.

    Such a run trains as GRPO does, and nothing else about it looks wrong. Maps that are even by the config's own words
    are left alone.
    """

    def __init__(self, structurer: Any) -> None:
        self._due = structurer is not None and not is_uniform(structurer)

    def __call__(self, share: float, iteration: int, logger: Logger) -> None:
        """Look at the share of an iteration's maps that are constant."""
        if self._due and share > 0.5:
            self._due = False
            logger.warning(
                f'iteration {iteration}: {share:.0%} of the allocation maps are the same everywhere, so these samples '
                'train as with plain GRPO. Look at them with tools/show_map.py CONFIG --prompts ...'
            )
