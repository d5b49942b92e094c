"""A rehearsal: any config, its own classes with tiny random weights, its whole life in a minute on a laptop."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from vipo.engine.components import build_batch_plan, count_parameters
from vipo.engine.scoring import RunStopped
from vipo.generators.architectures import is_known
from vipo.generators.pipeline import PipelineGenerator
from vipo.generators.source import describe_source
from vipo.generators.training import add_lora, find_targets
from vipo.registry import GENERATORS, STEP_SELECTORS, ConfigError
from vipo.registry.lookup import component_class, components_of

#: Sizes of a rehearsal: as small as every mechanism still works.
ITERATIONS, PROMPTS, SAMPLES, HELD_OUT = 2, 2, 4, 2


def rehearsed(cfg: Config, folder: Path) -> Config:
    """A copy of a config with tiny twins of every pretrained model and a handful of samples.

    A component class takes part by a class method ``rehearsal(options, folder) -> changed options``; one without
    stays as it is, which is right for a component that loads nothing. A class whose twin leaves something out says so
    in an attribute ``not_rehearsed``, a text for the table.

    Args:
        folder: where the twins are written.

    Raises:
        ConfigError: the config is wrong in a way that shows already.
    """
    small = deepcopy(cfg)
    for key, section in list(components_of(small)):
        cls = component_class(section.get('type'))
        if hasattr(cls, 'rehearsal'):
            options = {k: v for k, v in section.items() if k != 'type'}
            changed = cls.rehearsal(options, folder)
            if key == 'generator' and issubclass(cls, PipelineGenerator):
                changed |= _check_real(cls, section, changed['pretrained'])
            for option, value in ConfigDict(changed).items():  # update() would merge sections
                section[option] = value
    _shrink_rollout(small)
    _shrink_batch(small)
    if small.train_dataloader.dataset.get('type') == 'PromptDataset':
        small.train_dataloader.dataset.limit = 4 * PROMPTS
    small.train_cfg.max_iters = ITERATIONS
    if small.get('evaluation'):
        small.evaluation.update(num_prompts=HELD_OUT, num_steps=2, batch_size=HELD_OUT)
    hooks = small.get('default_hooks') or {}
    if hooks.get('checkpoint'):
        hooks.checkpoint.update(interval=1, keep=ITERATIONS)
    if hooks.get('report'):
        hooks.report.gallery = HELD_OUT
    small.work_dir, small.experiment_name = str(folder / 'run'), f'rehearsal_{folder.name}'
    small.resume, small.load_from = False, None
    return small


def _check_real(cls: type[PipelineGenerator], section: ConfigDict, twin: str) -> dict[str, Any]:
    """Check the real sizes and layer names, on the real architecture where it is known, else on the twin's.

    Returns:
        What changes for the twin: layers by name that only the real model has give way to the family's defaults.
    """
    real = cls.hub_models(section)['pretrained']
    known = is_known(real)
    GENERATORS.build({**section, 'pretrained': real if known else twin, 'init': 'meta'}, at='generator')
    lora = section.get('lora') or {}
    if known and lora.get('targets'):
        try:
            find_targets(describe_source(twin, cls.pipeline_class).skeleton('transformer'), lora['targets'])
        except ValueError:
            return {'lora': {k: v for k, v in lora.items() if k != 'targets'}}
    return {}


def _shrink_rollout(cfg: Config) -> None:
    """The fewest steps, at least 3, from which the config's selector can choose."""
    selector = STEP_SELECTORS.build(dict(cfg.rollout.selector), at='rollout.selector')
    trouble: ValueError | None = None
    for steps in range(min(3, cfg.rollout.num_steps), cfg.rollout.num_steps + 1):
        try:
            selector(steps, seed=0, iteration=0)
        except ValueError as error:
            trouble = error
        else:
            cfg.rollout.num_steps = steps
            return
    raise ConfigError(str(trouble))


def _shrink_batch(cfg: Config) -> None:
    """Two prompts of a few samples; several optimiser steps and micro-batches where the config has them."""
    batch = cfg.batch
    build_batch_plan(cfg)  # the sizes as they are, before they shrink
    samples = max(2, min(SAMPLES, batch.group_size) // 2 * 2)
    updates = min(PROMPTS, batch.get('updates_per_iteration', 1))
    per_update = PROMPTS * samples // updates
    batch.update(
        prompts_per_iteration=PROMPTS,
        group_size=samples,
        updates_per_iteration=updates,
        micro_batch_size=max(1, per_update // 2),
    )
    if batch.get('replay_micro_batch_size') is not None:
        batch.replay_micro_batch_size = 1


def run_rehearsal(cfg: Config, folder: Path) -> list[tuple[str, str]]:
    """Train, evaluate, save, resume and export; the table of what was exercised.

    Args:
        cfg: the config to rehearse, at its full size.
        folder: everything is written here.

    Raises:
        ConfigError: the config is wrong.
        RunStopped: something that worked alone does not work together.
    """
    from vipo.engine.runner import build_runner, describe

    small = rehearsed(cfg, folder)
    again = deepcopy(small)  # now: MMEngine writes names into the config that it is given
    runner = build_runner(small)
    runner.logger.info(describe(runner))
    runner.train()
    whole = _trained(runner)

    again.work_dir, again.resume = str(folder / 'resumed'), True
    again.load_from = str(folder / 'run' / 'iter_1.pth')
    again.experiment_name += '_resumed'
    resumed = build_runner(again)
    resumed.train()
    other = _trained(resumed)
    apart = [n for n in whole if not torch.equal(whole[n], other[n])]
    if apart:
        raise RunStopped(f'a resumed run ends with other weights than an undisturbed one: {apart[:3]}')

    generator = runner.components.generator
    generator.save_pretrained(folder / 'export')
    apart = check_export(generator, folder / 'export') if isinstance(generator, PipelineGenerator) else None
    return _table(cfg, runner, folder, apart)


def _trained(runner: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in runner.components.policy.state_dict().items()}


@torch.no_grad()
def check_export(generator: PipelineGenerator, folder: Path) -> float:
    """Load an export into a plain pipeline, as a user of diffusers does, and compare the velocities.

    Returns:
        The largest difference, in standard deviations of the velocity.

    Raises:
        RunStopped: it is more than rounding explains.
    """
    plain = generator.source.load({'default': generator.compute_dtype})
    noise = torch.randn(1, *generator.latent_shape(), generator=torch.Generator().manual_seed(0)).to(generator.device)
    conditioning = generator.encode(['a prompt']).to(generator.device)
    trained, dtype = generator._networks, generator.compute_dtype

    def velocities(networks: dict[str, torch.nn.Module]) -> torch.Tensor:
        # Rounding of bfloat16 can be as large as what two iterations change, so both sides compute in float32.
        generator._networks, generator.compute_dtype = networks, torch.float32
        try:
            return torch.stack([generator.velocity(noise, sigma, conditioning) for sigma in (0.95, 0.3)])
        finally:
            generator._networks, generator.compute_dtype = trained, dtype

    def theirs() -> torch.Tensor:
        return velocities({n: getattr(plain, n).to(generator.device, torch.float32).eval() for n in trained})

    ours = velocities({n: deepcopy(network).float() for n, network in trained.items()})
    untrained = theirs()
    for name, training in generator.training.items():
        if training.lora:
            second = {} if name == 'transformer' else {'load_into_transformer_2': True}
            plain.load_lora_weights(folder / name if second else folder, **second)
        else:
            plain.register_modules(**{name: type(getattr(plain, name)).from_pretrained(folder / name)})
    apart, moved = (((v - ours).abs().max() / ours.std()).item() for v in (theirs(), untrained))
    if not apart <= 1e-4:
        raise RunStopped(
            f'the export gives other velocities in plain diffusers: {apart:.3g} standard deviations, where training '
            f'moved them by {moved:.3g}'
        )
    return apart


def _table(cfg: Config, runner: Any, folder: Path, apart: float | None) -> list[tuple[str, str]]:
    c = runner.components
    trained, total = count_parameters(c.policy)
    dtypes = sorted({str(p.dtype).removeprefix('torch.') for p in c.policy.parameters()})
    rows = [
        ('generator', f'{type(c.generator).__name__}, twin of {cfg.generator.get("pretrained", "its default")}'),
        ('latents', f'{(c.batch.group_size, *c.generator.latent_shape())} (B, C, T, H, W)'),
        ('denoiser', f'{trained:,} of {total:,} parameters trained, held in {", ".join(dtypes)}'),
    ]
    rows.append(('at full size', _full_size(cfg, type(c.generator))))
    adapted = getattr(c.generator, 'adapted_layers', None)
    if adapted:
        rows.append(('LoRA', ', '.join(f'{len(names)} layers of {network}' for network, names in adapted.items())))
    rows.append(('reward', ', '.join(type(r).__name__ for r in c.judges.values())))
    for key, section in components_of(cfg):
        if text := getattr(component_class(section['type']), 'not_rehearsed', None):
            rows.append(('not rehearsed', f'{key}: {text}'))
    if c.strategy.shards:
        rows.append(('not rehearsed', f'strategy: {type(c.strategy).__name__} divides nothing in one process'))
    if c.structurer is not None:
        parts = [getattr(c.structurer, n, None) for n in ('backbone', 'allocator')]
        names = [type(p).__name__ for p in (c.structurer, *parts) if p is not None]
        rows.append(('map', ' + '.join(names)))
    rows += [
        ('rollout', f'{c.rollout.num_steps} steps, {type(c.rollout.kernel).__name__}'),
        ('batch', c.batch.describe()),
        ('training', f'{ITERATIONS} iterations, evaluation before and after: the first ratios were 1'),
        ('resume', 'from iteration 1: the same weights, bit for bit'),
        ('export', 'not compared' if apart is None else f'in plain diffusers the same velocity within {apart:.1g} std'),
        ('look at', str(folder)),
    ]
    return rows


def _full_size(cfg: Config, cls: type) -> str:
    """What would be trained of the real model, read off its architecture."""
    if not issubclass(cls, PipelineGenerator):
        return 'not known: the generator is none of this project'
    name = cls.hub_models(cfg.generator)['pretrained']
    if not is_known(name):
        return f'not known: {name} is not on this machine and its architecture is in no table of this project'
    real = GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator')
    lora = cfg.generator.get('lora')
    for network in real._networks.values() if lora is not None else ():
        network.requires_grad_(False)
        add_lora(network, default_targets=cls.lora_targets, default_exclude=cls.lora_exclude, **lora)
    trained, total = count_parameters(real.denoiser)
    layers = ', '.join(f'{len(names)} layers of {part}' for part, names in real.adapted_layers.items())
    return f'{trained:,} of {total:,} parameters of {name}' + (f', adapters on {layers}' if layers else '')


def describe_rehearsal(rows: list[tuple[str, str]], seconds: float) -> str:
    """The table as text."""
    width = max(len(name) for name, _ in rows)
    lines = [f'  {name:{width}s}  {text}' for name, text in rows]
    return '\n'.join([f'rehearsed in {seconds:.0f} s on tiny random twins:', *lines])
