"""The log line of an iteration: what a person watches, in one line."""

from __future__ import annotations

import datetime

from mmengine.runner import LogProcessor, Runner

from vipo.registry import LOG_PROCESSORS

_PHASES = ('encode', 'rollout', 'decode', 'reward', 'map', 'old log-probs', 'update', 'rest')


@LOG_PROCESSORS.register_module()
class PolicyLogProcessor(LogProcessor):
    """MMEngine's log processor with a line of our own; all values still go to the visualizer backends."""

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        if mode != 'train' or 'reward' not in tag:
            return tag, text
        seconds = {k: tag[f'seconds/{k}'] for k in _PHASES if f'seconds/{k}' in tag}
        eta = runner.message_hub.get_info('eta') if 'eta' in runner.message_hub.runtime_info else 0
        parts = [
            f'iteration {runner.iter + 1}/{runner.max_iters}',
            f'ETA {datetime.timedelta(seconds=int(eta))}',
            f'reward {tag["reward"]:.4f} +- {tag["reward_std"]:.4f}',
        ]
        # A loss of somebody else's may not clip at all.
        parts += [f'clipped {tag["clipped_fraction"]:.1%}'] if 'clipped_fraction' in tag else []
        parts.append(f'|ratio-1| first {tag["first_ratio_deviation"]:.1g} max {tag["ratio_deviation"]:.2g}')
        runner.clock.status = ' | '.join(part.split(' +- ')[0] for part in parts[1:])
        parts += [f'kl {tag["kl"]:.3g}'] if 'kl' in tag else []
        parts += [f'grad {tag["grad_norm"]:.3g}'] if 'grad_norm' in tag else []
        parts += [f'invalid {tag["reward_invalid"]:.1%}'] if tag['reward_invalid'] else []
        parts.append(f'{tag["seconds/total"]:.1f} s (' + ', '.join(f'{k} {v:.2f}' for k, v in seconds.items()) + ')')
        if broken := tag.get('map/broken_frames'):
            parts.append(f'WARNING: the allocator gave no finite map for {broken:.1%} of the frames')
        if tag.get('clipped_fraction', 0.0) > 0.5:
            parts.append('WARNING: more than half of the ratios are clipped; raise loss.clip_range or lower lr')
        return tag, ' | '.join(parts)
