"""The module that MMEngine trains: a denoiser, and nothing else of the generator."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel
from torch import Tensor, nn

from vipo.engine.ema import OTHER_CONFIG
from vipo.generators.base import Conditioning, Generator
from vipo.registry import ConfigError


class Policy(BaseModel):
    """Shows a generator's denoiser to the runner, so that only it is wrapped, broadcast, optimised and saved.

    The state dict holds the trainable parameters alone: megabytes for a LoRA on a model of gigabytes.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.denoiser: nn.Module = generator.denoiser
        # Behind a tuple, so that the autoencoder and the text encoders stay out of the module tree.
        self._hidden = (generator,)
        self._register_state_dict_hook(_keep_trainable)
        self.register_load_state_dict_pre_hook(_require_shapes)
        self.register_load_state_dict_post_hook(_require_trainable)

    @property
    def generator(self) -> Generator:
        """The adapter around the denoiser."""
        return self._hidden[0]

    def forward(self, latents: Tensor, sigma: float, conditioning: Conditioning) -> Tensor:
        """Velocity, see :meth:`vipo.generators.base.Generator.velocity`."""
        return self.generator.velocity(latents, sigma, conditioning)

    def train(self, mode: bool = True) -> Policy:
        """Stay in evaluation mode: dropout in a replay would make it another policy than the one that sampled."""
        return super().train(False)

    def init_weights(self) -> None:
        """Nothing: the generator was loaded with its weights."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        raise NotImplementedError('the policy loop owns the update; see vipo/engine/loop.py')


def trainable_names(module: nn.Module) -> set[str]:
    """Names of the parameters with ``requires_grad``."""
    return {n for n, p in module.named_parameters() if p.requires_grad}


def _keep_trainable(module: nn.Module, state: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
    names = {prefix + n for n in trainable_names(module)}
    for key in [k for k in state if k not in names]:
        del state[key]


def _require_shapes(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    # MMEngine would log a mismatch of shapes, load nothing, and go on.
    own = {prefix + n: p.shape for n, p in module.named_parameters()}
    wrong = [k for k, v in state.items() if k in own and v.shape != own[k]]
    if wrong:
        raise ConfigError(
            f'the checkpoint does not belong to this config: {len(wrong)} tensors have another shape (such as '
            f'{wrong[0]}: {tuple(state[wrong[0]].shape)} in the checkpoint, {tuple(own[wrong[0]])} here). '
            + OTHER_CONFIG
        )


def _require_trainable(module: nn.Module, incompatible: Any) -> None:
    missing = sorted(trainable_names(module) & set(incompatible.missing_keys))
    if missing or incompatible.unexpected_keys:
        raise ConfigError(
            f'the checkpoint does not belong to this config: {len(missing)} trainable tensors are missing from it '
            f'(such as {missing[:2]}) and {len(incompatible.unexpected_keys)} are unknown '
            f'(such as {list(incompatible.unexpected_keys)[:2]}). ' + OTHER_CONFIG
        )
    incompatible.missing_keys.clear()
