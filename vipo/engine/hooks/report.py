"""The history of a run, and what it leaves behind for a person to look at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vipo.engine.clock import PROCESS_START
from vipo.engine.evaluation import Evaluation
from vipo.engine.hooks.evaluation import path_of
from vipo.registry import HOOKS
from vipo.statistics import Gain, paired_gain
from vipo.visualization import before_after, map_overlays, reward_curve, to_pixels


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``history.jsonl`` while the run goes on, and at its end ``summary.json``, ``reward_curve.png``,
    ``before_after.png`` and ``maps.png``.

    Args:
        gallery: pictures in the galleries.
    """

    priority = 'LOWEST'

    def __init__(self, gallery: int = 24) -> None:
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
        c = runner.components
        if not is_main_process() or c.evaluation is None:
            return
        history = self._history(runner)
        before, after = Evaluation.load(path_of(runner, 0)), Evaluation.load(path_of(runner, runner.max_iters))
        gain = paired_gain(before.scores['reward'], after.scores['reward'])
        summary = self._summary(runner, before, after, gain)
        folder = Path(runner.work_dir)
        (folder / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n')
        name = Path(runner.cfg.filename).stem if runner.cfg.filename else runner.experiment_name
        evaluations = {
            int(p.stem.removeprefix('iter_')): Evaluation.load(p).means()
            for p in (folder / 'evaluations').glob('iter_*.npz')
        }
        reward_curve(history, evaluations, folder / 'reward_curve.png', f'{name}, seed {runner.seed}')
        self._galleries(runner, before, after, f'{name}, seed {runner.seed}')
        runner.clock.clear()
        runner.logger.info(_closing(summary, folder))

    def _summary(self, runner: Runner, before: Evaluation, after: Evaluation, gain: Gain) -> dict[str, Any]:
        first, last = before.means(), after.means()
        summary = {
            'reward_before': first['reward'],
            'reward_after': last['reward'],
            'reward_std_before': float(np.nanstd(before.scores['reward'])),
            'gain': gain.value,
            'gain_low': gain.low,
            'gain_high': gain.high,
        }
        for name in runner.components.eval_rewards:
            summary |= {f'{name}_before': first[name], f'{name}_after': last[name]}
        return {
            **summary,
            'parts_before': {k: v for k, v in first.items() if '/' in k},
            'parts_after': {k: v for k, v in last.items() if '/' in k},
            'held_out_prompts': len(before.prompts),
            'iterations': runner.max_iters,
            'wall_seconds': self._wall(),
            'seed': runner.seed,
        }

    def _galleries(self, runner: Runner, before: Evaluation, after: Evaluation, title: str) -> None:
        folder, shown = Path(runner.work_dir), slice(0, self.gallery)
        captions = [
            (f'reward {a:.3f}', f'reward {b:.3f}')
            for a, b in zip(before.scores['reward'][shown], after.scores['reward'][shown], strict=True)
        ]
        before_after(
            after.prompts[shown],
            before.pixels[shown],
            after.pixels[shown],
            captions,
            folder / 'before_after.png',
            title,
        )
        c = runner.components
        if c.structurer is not None:
            pictures = after.pixels[: min(12, self.gallery)]
            grid = c.generator.latent_shape()[1:]
            maps = c.structurer(to_pixels(pictures).to(c.generator.device), grid)
            map_overlays(after.prompts[: len(pictures)], pictures, maps, folder / 'maps.png', title, columns=3)

    def _wall(self) -> float:
        return round(self._before_resume + time.perf_counter() - PROCESS_START, 2)

    @staticmethod
    def _file(runner: Runner) -> Path:
        return Path(runner.work_dir) / 'history.jsonl'

    def _history(self, runner: Runner) -> list[dict[str, Any]]:
        """Complete records; a line that was cut off by a dying process is dropped."""
        file = self._file(runner)
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith('\n')]


def _closing(summary: dict[str, Any], folder: Path) -> str:
    others = ''.join(
        f', {k.removesuffix("_before")} {v:.3f} -> {summary[k.removesuffix("_before") + "_after"]:.3f}'
        for k, v in summary.items()
        if k.endswith('_before') and isinstance(v, float) and k not in ('reward_before', 'reward_std_before')
    )
    return (
        f'Done in {summary["wall_seconds"]:.0f} s: held-out reward {summary["reward_before"]:.4f} -> '
        f'{summary["reward_after"]:.4f}, a gain of {summary["gain"]:+.2f} std '
        f'(95 % interval {summary["gain_low"]:+.2f} to {summary["gain_high"]:+.2f}){others}. '
        f'Look at before_after.png, maps.png, reward_curve.png and summary.json in {folder}'
    )
