"""Losses and gradients that are not finite: found before they reach the weights, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import Tensor, nn

from vipo.engine.batch import Samples
from vipo.engine.checkpoint import write_atomically
from vipo.engine.parallel import gather
from vipo.engine.scoring import RunStopped
from vipo.engine.sharding import local


@dataclass
class NotFinite:
    """What was found on this rank and on the others.

    Attributes:
        losses: numbers of this rank's micro-steps whose loss is not finite.
        parameters: names of parameters with a gradient that is not finite, on any rank.
        in_loss: whether the loss of some rank is not finite, so that it is more than a backward pass.
        ranks: where to look: those with such a loss, or where there is none, with such a gradient.
    """

    losses: list[int]
    parameters: list[str]
    in_loss: bool
    ranks: list[int]


def find_not_finite(model: nn.Module, losses: Sequence[Tensor]) -> NotFinite | None:
    """Look through the losses and gradients of one optimiser step; every rank calls it and all get an answer or none.

    Args:
        model: with gradients that are complete; those of FSDP2 are parts.
        losses: of this rank's micro-steps, without dimensions.
    """
    bad_losses = (~torch.stack(list(losses)).isfinite()).nonzero().flatten().tolist()
    graded = [(n, local(p.grad)) for n, p in model.named_parameters() if p.grad is not None]
    finite = torch.stack([g.isfinite().all() for _, g in graded]).tolist() if graded else []
    bad_gradients = [n for (n, _), fine in zip(graded, finite, strict=True) if not fine]
    counts = gather(torch.tensor([[len(bad_losses), len(bad_gradients)]]))
    if not counts.any():
        return None
    everyone = all_gather_object(bad_gradients) if get_world_size() > 1 else [bad_gradients]
    in_loss = bool(counts[:, 0].any())
    return NotFinite(
        losses=bad_losses,
        parameters=sorted({name for names in everyone for name in names}),
        in_loss=in_loss,
        ranks=counts[:, 0 if in_loss else 1].nonzero().flatten().tolist(),
    )


def stop_for(
    found: NotFinite,
    samples: Samples,
    micro_steps: Sequence[tuple[slice, int]],
    losses: Sequence[Tensor],
    old: Tensor,
    new: Tensor,
    iteration: int,
    folder: Path,
) -> RunStopped:
    """Write the batch at fault down, on the ranks that have it, and make the error that says so.

    Args:
        micro_steps: of the optimiser step on this rank: which samples, and the number of the trained step.
        losses: of the micro-steps.
        old: log-probs at the rollout, ``(K, N, T, H, W)``.
        new: those of the weights as they are, of the same shape.
        iteration: counted from 1.
        folder: where the file goes.
    """
    name = f'nonfinite_iter_{iteration}_rank_{{}}.pt'
    written = ''
    if get_rank() in found.ranks:
        path = folder / name.format(get_rank())
        content = _content(found, samples, micro_steps, losses, old, new, iteration)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda temporary: torch.save(content, temporary))
        except OSError as error:
            written = f' (rank {get_rank()} could not write it: {error})'
    files = ', '.join(str(folder / name.format(rank)) for rank in found.ranks)
    what = ['a loss is not finite'] if found.in_loss else []
    if found.parameters:
        what.append(f'{len(found.parameters)} gradients are not finite (such as {found.parameters[0]})')
    return RunStopped(
        f'in iteration {iteration} {" and ".join(what)} on rank(s) {found.ranks}; the optimiser step was not taken. '
        f'The batch at fault is in {files}{written}. Look at it with python -c "import torch; '
        f"print(torch.load('{folder / name.format(found.ranks[0])}', weights_only=True))\". "
        '--resume goes on from the last checkpoint and comes to the same batch: first lower the learning rate or '
        'rollout.kernel.eta, or mend the reward or the map that the file shows.'
    )


def _content(
    found: NotFinite,
    samples: Samples,
    micro_steps: Sequence[tuple[slice, int]],
    losses: Sequence[Tensor],
    old: Tensor,
    new: Tensor,
    iteration: int,
) -> dict[str, Any]:
    """Of the micro-steps with a bad loss, or of the whole optimiser step where no loss is bad."""
    chosen = [micro_steps[i] for i in found.losses] or list(micro_steps)
    count = len(samples.prompts)
    rows = sorted({i for piece, _ in chosen for i in range(*piece.indices(count))})
    index = torch.tensor(rows)

    def cut(x: Tensor | None, dim: int = 0) -> Tensor | None:
        return None if x is None else x.detach().cpu().index_select(dim, index)

    steps = samples.trajectory.steps
    return {
        'iteration': iteration,
        'rank': get_rank(),
        'parameters': found.parameters,
        'micro_steps': [
            {'samples': list(range(*micro_steps[i][0].indices(count))), 'step': int(steps[micro_steps[i][1]])}
            for i in found.losses
        ],
        'losses': torch.stack(list(losses)).cpu(),
        'samples': rows,
        'numbers': cut(samples.number),
        'prompts': [samples.prompts[i] for i in rows],
        'seeds': [samples.seeds[i] for i in rows],
        'signs': [samples.signs[i] for i in rows],
        'group_seeds': [samples.group_seeds[i] for i in rows],
        'group': cut(samples.group),
        'rewards': cut(samples.reward.scores),
        'rewards_valid': cut(samples.reward.valid),
        'reward_parts': {part: cut(value) for part, value in samples.reward.parts.items()},
        'advantages': cut(samples.advantage),
        'map': cut(samples.allocation),
        'steps': [int(i) for i in steps],
        'old_log_prob': cut(old, 1),
        'new_log_prob': cut(new, 1),
    }
