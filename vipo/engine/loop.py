"""The training loop on one page: prompts, rollout, pixels, rewards, advantages, map, update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import Tensor
from torch.utils.data import DataLoader

from vipo.advantages import combined_advantages
from vipo.diffusion.rollout import Trajectory, Velocity, integrate, rollout
from vipo.engine.batch import Samples
from vipo.engine.clock import peak_memory
from vipo.engine.maps import EvenMapWarning, describe_maps, try_structurer
from vipo.engine.parallel import EqualWeights, check_same, check_same_names, encode_in_shares, gather, over_ranks
from vipo.engine.preemption import stop_if_asked
from vipo.engine.scoring import RunStopped, check_valid, score
from vipo.engine.update import update
from vipo.generators.base import Conditioning
from vipo.randomness import SampleNoise, derive_seed
from vipo.registry import LOOPS
from vipo.structurers.base import call_structurer, counters, set_progress


@LOOPS.register_module()
class PolicyLoop(IterBasedTrainLoop):
    """One iteration is one round of the policy: sample, judge, and learn from the judgement.

    Hooks may implement ``after_rollout``, ``after_reward`` and ``after_update``, each called with ``samples=``,
    beside MMEngine's own points.

    Args:
        max_iters: policy iterations.
        max_invalid_fraction: a rollout in which more than this share of the rewards is invalid stops the run.
        ratio_tolerance: bound on max |ratio - 1| before the first update of a rollout, see :mod:`vipo.engine.update`.
        compare_weights_every: iterations between comparisons of the weights of the ranks, see
            :class:`vipo.engine.parallel.EqualWeights`.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        max_iters: int,
        max_invalid_fraction: float = 0.5,
        ratio_tolerance: float = 1e-6,
        compare_weights_every: int = 10,
    ) -> None:
        super().__init__(runner, dataloader, max_iters, val_interval=max_iters + 1)
        self.components = runner.components
        self.clock = runner.clock
        self.max_invalid_fraction = max_invalid_fraction
        self.ratio_tolerance = ratio_tolerance
        self.compare_weights = EqualWeights(compare_weights_every)
        self.warn_of_even_maps = EvenMapWarning(runner.components.structurer)

    def run(self) -> torch.nn.Module:
        """Everything: try a map, encode prompts ahead where the generator stores them, then the iterations."""
        try_structurer(self.components, self.dataloader.dataset[0])
        self.encode_ahead()
        return super().run()

    def encode_ahead(self) -> None:
        """Have the generator store what the rest of the run will ask for; ranks divide what is missing."""
        generator, prompts = self.components.generator, self.prompts_to_come()
        sampler = self.dataloader.sampler
        if not hasattr(sampler, 'dealt') and generator.unencoded(prompts):
            self.runner.logger.info(f'{type(sampler).__name__} cannot say what it will deal: all prompts are encoded')
        encode_in_shares(generator, prompts, self.clock)

    def prompts_to_come(self) -> list[str]:
        """Prompts that the sampler deals from here to the end of the run, and those of the evaluation."""
        dataset, sampler = self.dataloader.dataset, self.dataloader.sampler
        if hasattr(sampler, 'dealt'):
            size = self.components.batch.prompts_per_iteration
            indices = sampler.dealt(self._iter * size, self._max_iters * size)
        else:
            indices = range(len(dataset))
        evaluation = self.components.evaluation
        held_out = [] if evaluation is None else [record['prompt'] for record in evaluation.records]
        return [dataset[i]['prompt'] for i in dict.fromkeys(indices)] + held_out

    def run_iter(self, data_batch: dict[str, list]) -> None:
        """One policy iteration."""
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        self.clock.start_iteration(f'iteration {self._iter + 1}/{self._max_iters}')
        samples = self.collect(data_batch)
        c, at = self.components, {'iteration': self._iter + 1, 'folder': Path(runner.work_dir)}
        logs = update(runner.model, runner.optim_wrapper, samples, c, self.clock, tolerance=self.ratio_tolerance, **at)
        self.compare_weights(c.policy, self._iter + 1)
        runner.call_hook('after_update', samples=samples)
        self.clock.stop_iteration()
        logs |= self.describe(samples) | {f'seconds/{k}': v for k, v in self.clock.times.items()}
        logs['memory/peak_mib'] = peak_memory()
        if (norms := runner.message_hub.log_scalars.get('train/grad_norm')) is not None:  # where gradients are clipped
            logs['grad_norm'] = float(norms.data[0][-c.batch.updates_per_iteration :].mean())
        outputs = over_ranks(logs, c.batch.samples)
        self.warn_of_even_maps(outputs.get('map/constant', 0.0), self._iter + 1, runner.logger)
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        stop_if_asked(runner)
        self._iter += 1

    def collect(self, data_batch: dict[str, list]) -> Samples:
        """Everything of an iteration before the update: samples with their advantages and maps."""
        samples = self.prepare(data_batch)
        self.rollout(samples)
        self.decode(samples)
        self.runner.call_hook('after_rollout', samples=samples)
        self.reward(samples)
        self.runner.call_hook('after_reward', samples=samples)
        self.allocate(samples)
        return samples

    def prepare(self, data_batch: dict[str, list]) -> Samples:
        """This rank's samples: their prompts, each encoded once, every seed, and the steps to train."""
        c, seed = self.components, self.runner.seed
        dealt = [int(i) for i in data_batch['prompt_id']]
        check_same(dealt, 'the prompts of an iteration (a sampler has to deal all of them to every rank)')
        # A prompt that comes twice makes two groups.
        number = torch.tensor(c.batch.numbers)
        group = number // c.batch.group_size
        own, rows = group.unique(return_inverse=True)
        with self.clock.phase('encode'), c.working('text_encoders'):
            encoded = c.generator.encode([data_batch['prompt'][g] for g in own]).to(c.generator.device)
        keys = [(seed, self._iter, int(data_batch['prompt_id'][g]), g) for g in group.tolist()]
        in_group = (number % c.batch.group_size).tolist()
        antithetic = c.rollout.antithetic
        return Samples(
            prompts=[data_batch['prompt'][g] for g in group],
            metadata=[data_batch['metadata'][g] for g in group],
            number=number,
            group=group,
            seeds=[derive_seed(*key, k // 2 if antithetic else k) for key, k in zip(keys, in_group, strict=True)],
            signs=[-1 if antithetic and k % 2 else 1 for k in in_group],
            group_seeds=[derive_seed(*key) for key in keys],
            conditioning=encoded.take(rows),
            plan=c.rollout.selector(c.rollout.num_steps, seed, self._iter),
        )

    def rollout(self, samples: Samples) -> None:
        """Sample every trajectory; keep the transitions of the trained steps."""
        c = self.components
        sigmas, shape, device = c.generator.sigmas(c.rollout.num_steps), c.generator.latent_shape(), c.generator.device
        parts = []
        with self.clock.phase('rollout', c.batch.samples), c.sampling():
            initial, start = self.initial_latents(samples, sigmas)
            for piece in c.batch.slices(c.batch.micro_batch_size):
                noise = SampleNoise(samples.seeds[piece], shape, device, samples.signs[piece])
                velocity = self.velocity(samples.conditioning[piece])
                parts.append(
                    rollout(velocity, initial[piece], sigmas, c.rollout.kernel, samples.plan, noise, start=start)
                )
                self.clock.advance(piece.stop - piece.start)
        samples.trajectory = Trajectory(
            latents=torch.cat([p.latents for p in parts]),
            steps=samples.plan.trained,
            states=torch.cat([p.states for p in parts], dim=1),
            next_states=torch.cat([p.next_states for p in parts], dim=1),
            log_prob=torch.cat([p.log_prob for p in parts], dim=1),
        )

    def initial_latents(self, samples: Samples, sigmas: Tensor) -> tuple[Tensor, int]:
        """Latents ``(N, C, T, H, W)`` and the step from which each sample goes its own way.

        That is step 0 where each sample has its own initial noise. A group that shares one is a single trajectory up to
        the first stochastic step, and so is computed once.
        """
        c = self.components
        shape, device = c.generator.latent_shape(), c.generator.device
        if not c.rollout.share_initial_noise:
            return SampleNoise(samples.seeds, shape, device)('initial'), 0
        size, start = c.batch.micro_batch_size, min(samples.plan.stochastic)
        own, which = samples.group.unique(return_inverse=True)
        first = torch.searchsorted(samples.group, own)
        # As many as the rank with most groups has: where weights are shared, all make the same number of passes.
        first = torch.cat([first, first[-1:].expand(c.batch.most_groups - len(first))])
        initial = SampleNoise([samples.group_seeds[i] for i in first], shape, device)('initial')
        pieces = [slice(i, i + size) for i in range(0, len(initial), size)]
        conditioning = samples.conditioning[first]
        parts = [integrate(self.velocity(conditioning[p]), initial[p], sigmas[: start + 1]) for p in pieces]
        return torch.cat(parts)[which], start

    def velocity(self, conditioning: Conditioning) -> Velocity:
        """The policy's velocity for these prompts."""
        return lambda x, sigma: self.runner.model(x, sigma, conditioning)

    def decode(self, samples: Samples) -> None:
        """Latents to pixels."""
        c = self.components
        with self.clock.phase('decode', c.batch.samples), c.working('autoencoder'):
            for piece in c.batch.slices(c.batch.micro_batch_size):
                pixels = c.generator.decode(samples.trajectory.latents[piece])
                if samples.pixels is None:  # in main memory: of clips there are more than a GPU can spare
                    samples.pixels = torch.empty(c.batch.samples, *pixels.shape[1:])
                samples.pixels[piece] = pixels
                self.clock.advance(piece.stop - piece.start)

    @torch.no_grad()
    def reward(self, samples: Samples) -> None:
        """Judge the pixels, and compare each sample with its group, wherever the group's samples are."""
        c = self.components
        with self.clock.phase('reward'), c.working('reward'):
            samples.reward = score(c.reward, 'reward', samples.pixels, samples.prompts, samples.metadata)
            check_valid(gather(samples.reward.valid.cpu()), self.max_invalid_fraction)
            if c.advantage.get('map_on') != 'reward':
                samples.advantage = self.advantages(samples)

    def advantages(self, samples: Samples, maps: Tensor | None = None) -> Tensor:
        """Advantages of this rank's samples; ``maps`` where they apply to the reward."""
        c, output = self.components, samples.reward
        weights = c.reward.weights or {}
        # In the order of their numbers: sums are then the same on any number of ranks.
        order = gather(samples.number).argsort()
        everyone = combined_advantages(
            gather(output.scores.cpu())[order],
            gather(samples.group)[order],
            gather(output.valid.cpu())[order],
            parts={name: gather(output.parts[name].float().cpu())[order] for name in weights},
            weights=weights,
            maps=None if maps is None else gather(maps.cpu())[order],
            **c.advantage,
        )
        return everyone[samples.number].to(samples.trajectory.log_prob.device)

    @torch.no_grad()
    def allocate(self, samples: Samples) -> None:
        """Say where in space and time each sample's advantage goes."""
        c = self.components
        if c.structurer is None:
            return
        for counter in counters(c.structurer):
            counter.clear()
        set_progress(c.structurer, self._iter, self._max_iters)
        with self.clock.phase('map', c.batch.samples), c.working('map'):
            grid = tuple(samples.trajectory.latents.shape[2:])
            parts = []
            for piece in c.batch.slices(c.batch.micro_batch_size):
                prompts, records = samples.prompts[piece], samples.metadata[piece]
                parts.append(call_structurer(c.structurer, samples.pixels[piece], grid, prompts, records))
                self.clock.advance(piece.stop - piece.start)
            samples.allocation = torch.cat(parts).to(samples.trajectory.log_prob.device)
            if c.advantage.get('map_on') == 'reward':
                # On the advantage the loss would show it; here the sample would count as one with an invalid reward.
                if not samples.allocation.isfinite().all():
                    raise RunStopped(f'{type(c.structurer).__name__} gave a map that is not finite')
                samples.advantage = self.advantages(samples, samples.allocation)

    def describe(self, samples: Samples) -> dict[str, float]:
        """What is logged of the samples."""
        output = samples.reward
        valid = gather(output.valid.cpu())
        kept = gather(output.scores.cpu())[valid]
        names = check_same_names(output.parts, 'the parts of the reward')
        logs = {
            'reward': kept.mean(),
            'reward_std': kept.std(correction=0),
            'reward_invalid': (~valid).float().mean(),
            **{f'reward/{name}': gather(output.parts[name].float().cpu())[valid].mean() for name in names},
        }
        if samples.allocation is not None:
            logs |= describe_maps(samples.allocation, self.components.structurer)
        return {k: float(v) for k, v in logs.items()}
