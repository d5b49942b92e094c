"""What is trained in a denoiser: LoRA adapters or all weights, and the reference policy that belongs to each."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vipo.registry.build import check_options

#: Linear layers of an attention in which text and picture meet, as diffusers names them.
JOINT_ATTENTION = (
    'attn.to_q',
    'attn.to_k',
    'attn.to_v',
    'attn.to_out.0',
    'attn.add_q_proj',
    'attn.add_k_proj',
    'attn.add_v_proj',
    'attn.to_add_out',
)


class Trainable:
    """Makes a diffusers transformer trainable and knows the way back to the reference policy.

    Trained weights are float32 whatever the model was loaded in: a bfloat16 weight has 8 bits of mantissa, and most
    steps of a policy update are smaller than its last one.

    Args:
        denoiser: the model, changed in place.
        lora: options ``rank``, ``alpha`` (default: the rank), ``targets`` (name endings of linear layers) and
            ``seed``; None trains all weights.
        default_targets: the family's targets.
        default_exclude: beginnings of names that the family's targets leave out.
        keep_reference: keep a frozen copy for full training. LoRA needs none: its reference is the adapters off.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        lora: dict[str, Any] | None,
        default_targets: Sequence[str],
        keep_reference: bool = False,
        default_exclude: Sequence[str] = (),
    ) -> None:
        self.denoiser = denoiser
        self.lora = lora is not None
        self._frozen: nn.Module | None = None
        if lora is None:
            denoiser.float().requires_grad_(True)
            if keep_reference:
                self._frozen = copy.deepcopy(denoiser).requires_grad_(False)
        else:
            denoiser.requires_grad_(False)
            check_lora(denoiser, lora, default_targets, default_exclude)
            add_lora(denoiser, default_targets=default_targets, default_exclude=default_exclude, **lora)

    @property
    def has_reference(self) -> bool:
        """Whether :meth:`reference` can be entered."""
        return self.lora or self._frozen is not None

    @property
    def frozen(self) -> nn.Module | None:
        """The copy from before training, where one is kept."""
        return self._frozen

    def to(self, device: torch.device | str) -> None:
        """Move the frozen copy; the denoiser belongs to its pipeline."""
        if self._frozen is not None:
            self._frozen.to(device)

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """Yields the denoiser as it was before training.

        Raises:
            ValueError: all weights are trained and no copy was kept.
        """
        if self.lora:
            self.denoiser.disable_adapters()
            try:
                yield self.denoiser
            finally:
                self.denoiser.enable_adapters()
        elif self._frozen is None:
            raise ValueError(
                'the reference policy of full training is a frozen copy, and none was kept: set '
                'generator.keep_reference=True (it costs the memory of one more denoiser), or train with LoRA'
            )
        else:
            yield self._frozen


def check_lora(
    denoiser: nn.Module, lora: dict[str, Any], default_targets: Sequence[str], default_exclude: Sequence[str] = ()
) -> list[str]:
    """Check the options of :func:`add_lora` on a model that may still be without weights.

    Returns:
        The names of the layers that will be adapted.

    Raises:
        ConfigError: an option is unknown or of another type.
        ValueError: see :func:`add_lora`.
    """
    check_options(
        add_lora,
        {**lora, 'denoiser': denoiser, 'default_targets': default_targets, 'default_exclude': default_exclude},
        'generator.lora',
        internal=['denoiser', 'default_targets', 'default_exclude'],
    )
    if lora.get('rank', 1) < 1:
        raise ValueError(f'generator.lora.rank must be at least 1, got {lora["rank"]}')
    targets = lora.get('targets')
    if isinstance(targets, str) or (targets is not None and not len(targets)):
        raise ValueError(
            f'generator.lora.targets must be a list of layer names, or None for the defaults, got {targets!r}'
        )
    return find_targets(denoiser, targets or default_targets, () if targets else default_exclude)


def add_lora(
    denoiser: nn.Module,
    rank: int = 32,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    default_targets: Sequence[str] = (),
    default_exclude: Sequence[str] = (),
) -> list[str]:
    """Attach LoRA adapters in float32 and freeze the rest.

    The initial weights depend on ``seed`` alone, so every rank starts from the same adapters.

    Args:
        denoiser: the network.
        rank: of the adapters.
        alpha: their scale is ``alpha / rank``; None is ``rank``.
        targets: ends of the names of the linear layers that are adapted; None is what the family says.
        seed: of the initial weights.
        default_targets: what the family says.
        default_exclude: starts of names that are left out where ``targets`` is None.

    Returns:
        The names of the adapted layers.

    Raises:
        ValueError: a target that matches no linear layer, or a rank below 1.
    """
    from peft import LoraConfig

    exclude = default_exclude if targets is None else ()
    targets = list(targets if targets is not None else default_targets)
    names = find_targets(denoiser, targets, exclude)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha if alpha is not None else rank,
        target_modules=targets,
        exclude_modules='|'.join(rf'{re.escape(start)}\..*' for start in exclude) or None,
        init_lora_weights='gaussian',
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser.add_adapter(config)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return names


def save_lora(pipe: Any, network: nn.Module, layers: list[str], folder: str | Path) -> None:
    """Write adapters as ``pipe.load_lora_weights`` reads them.

    Args:
        layers: names of the adapted ones.
    """
    from peft.utils import get_peft_model_state_dict

    # The layers by name, so that what was left out needs no rule on the other side.
    metadata = network.peft_config['default'].to_dict() | {'target_modules': layers, 'exclude_modules': None}
    pipe.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(network),
        # Without it diffusers would take alpha to be the rank.
        transformer_lora_adapter_metadata=metadata,
    )


def find_targets(denoiser: nn.Module, targets: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers that end in one of ``targets`` and lie in no module of ``exclude``.

    Raises:
        ValueError: a target that matches none.
    """
    linear = [n for n, m in denoiser.named_modules() if isinstance(m, nn.Linear)]
    linear = [n for n in linear if not n.startswith(tuple(f'{start}.' for start in exclude))]
    for target in targets:
        if not any(n == target or n.endswith('.' + target) for n in linear):
            endings = sorted({'.'.join(n.split('.')[-2:]) for n in linear})
            raise ValueError(
                f'generator.lora.targets: {target!r} matches no linear layer of {type(denoiser).__name__}. '
                f'Layer names end in: {", ".join(endings)}'
            )
    return [n for n in linear if any(n == t or n.endswith('.' + t) for t in targets)]
