"""The history of a run, and what it leaves behind for a person to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.engine.clock import since_start
from vipo.engine.evaluation import Evaluation
from vipo.engine.hooks.evaluation import evaluations, number_of
from vipo.registry import HOOKS, ConfigError
from vipo.statistics import paired_gain
from vipo.structurers.base import call_structurer
from vipo.visualization import before_after, map_overlays, reward_curve, to_pixels


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``history.jsonl`` while the run goes on, and at its end ``summary.json``, ``reward_curve.png``,
    ``before_after.png``, ``maps.png`` and the maps themselves in ``maps.npz``, which ``tools/compare.py`` draws.

    Args:
        gallery: pictures in the galleries.

    Raises:
        ConfigError: a gallery of no pictures.
    """

    priority = 'LOWEST'

    def __init__(self, gallery: int = 24) -> None:
        if gallery < 1:
            raise ConfigError(f'default_hooks.report.gallery must be at least 1, got {gallery}')
        self.gallery = gallery
        self._before_resume = 0.0

    def before_train(self, runner: Runner) -> None:
        """A resumed run continues its history where the checkpoint stands."""
        if not is_main_process():
            return
        kept = [h for h in self._history(runner) if h['iteration'] <= runner.iter]
        self._before_resume = kept[-1]['wall_seconds'] if kept else 0.0
        self._file(runner).write_text(''.join(json.dumps(h) + '\n' for h in kept))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        if not is_main_process():
            return
        record = {'iteration': runner.iter + 1, 'wall_seconds': self._wall(), **outputs}
        with open(self._file(runner), 'a') as file:
            file.write(json.dumps(record) + '\n')

    def after_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        found = {number_of(p): Evaluation.load(p) for p in evaluations(runner)}
        before, after = found.get(0), found.get(runner.iter)
        folder = Path(runner.work_dir)
        summary = self._summary(runner, before, after)
        (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        name = Path(runner.cfg.filename).stem if runner.cfg.filename else runner.experiment_name
        title = f'{name}, seed {runner.seed}'
        means = {number: evaluation.means() for number, evaluation in found.items()}
        reward_curve(self._history(runner), means, folder / 'reward_curve.png', title)
        written = ['reward_curve.png', 'summary.json']
        if after is not None:
            written[:0] = self._galleries(runner, before, after, title)
        runner.clock.clear()
        runner.logger.info(_closing(summary, written, folder))

    def _summary(self, runner: Runner, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        if before is not None and after is not None:
            first, last = before.scores['reward'], after.scores['reward']
            # What has no score on one side is no pair.
            pairs = first[np.isfinite(first) & np.isfinite(last)]
            spread = float(pairs.std()) if len(pairs) else 0.0
            summary = {'reward_std_before': spread}
            if spread > 1e-12:  # else there is nothing to measure a gain by
                gain = paired_gain(first, last)
                summary |= {'gain': gain.value, 'gain_low': gain.low, 'gain_high': gain.high}
        for when, evaluation in (('before', before), ('after', after)):
            if evaluation is not None:
                means = evaluation.means()
                summary |= {f'{k}_{when}': v for k, v in means.items() if '/' not in k}
                summary[f'parts_{when}'] = {k: v for k, v in means.items() if '/' in k}
                summary['held_out_prompts'] = len(evaluation.prompts)
        return {
            **summary,
            'iterations': runner.iter,
            'wall_seconds': self._wall(),
            'seed': runner.seed,
        }

    def _galleries(self, runner: Runner, before: Evaluation | None, after: Evaluation, title: str) -> list[str]:
        folder, shown, written = Path(runner.work_dir), slice(0, self.gallery), []
        if before is not None:
            captions = [
                (f'reward {a:.3f}', f'reward {b:.3f}')
                for a, b in zip(before.scores['reward'][shown], after.scores['reward'][shown], strict=True)
            ]
            target = folder / 'before_after.png'
            before_after(after.prompts[shown], before.pixels[shown], after.pixels[shown], captions, target, title)
            written.append(target.name)
        c = runner.components
        if c.structurer is not None:
            pictures = after.pixels[: min(12, self.gallery)]
            with c.working('map'):
                maps = call_structurer(
                    c.structurer,
                    to_pixels(pictures).to(c.generator.device),
                    c.generator.latent_shape()[1:],
                    after.prompts[: len(pictures)],
                    c.evaluation.records[: len(pictures)],
                )
            target = folder / 'maps.png'
            map_overlays(after.prompts[: len(pictures)], pictures, maps, target, title, columns=3)
            np.savez_compressed(folder / 'maps.npz', maps=maps[:, 0].float().cpu().numpy())  # (N, T, H, W)
            written.append(target.name)
        return written

    def _wall(self) -> float:
        return round(self._before_resume + since_start(), 2)

    @staticmethod
    def _file(runner: Runner) -> Path:
        return Path(runner.work_dir) / 'history.jsonl'

    def _history(self, runner: Runner) -> list[dict[str, Any]]:
        """Complete records; a line that was cut off by a dying process is dropped."""
        file = self._file(runner)
        lines = file.read_text(errors='replace').splitlines(keepends=True) if file.exists() else []
        try:
            return [json.loads(line) for line in lines if line.endswith('\n')]
        except json.JSONDecodeError as error:
            raise ConfigError(f'{file} is damaged, a line of it is no JSON ({error}). Move it away to go on') from error


def _closing(summary: dict[str, Any], written: list[str], folder: Path) -> str:
    changes = []
    for key in (k.removesuffix('_after') for k in summary if k.endswith('_after') and k != 'parts_after'):
        start = f'{summary[f"{key}_before"]:.4f} -> ' if f'{key}_before' in summary else ''
        changes.append(f'held-out {key} {start}{summary[f"{key}_after"]:.4f}')
    if 'gain' in summary:
        interval = f'{summary["gain_low"]:+.2f} to {summary["gain_high"]:+.2f}'
        changes.insert(1, f'a gain of {summary["gain"]:+.2f} std (95 % interval {interval})')
    return (
        f'Done in {summary["wall_seconds"]:.0f} s: {", ".join(changes) or "no evaluation"}. '
        f'Look at {", ".join(written)} in {folder}'
    )
