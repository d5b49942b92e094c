"""What a config will take per GPU, before a GPU is rented."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from vipo.engine.batch import BatchPlan
from vipo.engine.components import EvaluationOptions, count_parameters
from vipo.engine.measure import PassCost, measure_pass
from vipo.engine.scaling import Traffic
from vipo.engine.sharding import block_lists
from vipo.generators.pipeline import PipelineGenerator
from vipo.registry import GENERATORS, LOSSES, STEP_SELECTORS, ConfigError
from vipo.registry.build import check_options
from vipo.registry.lookup import component_class, components_of

STRATEGIES = ('ddp', 'fsdp2')
#: Bytes per trained parameter: float32 master, gradient, two moments of AdamW.
_MASTER, _GRADIENT, _ADAM = 4, 4, 8
#: What allocator, CUDA context and communication buffers take beside tensors.
_OVERHEAD = 2 * 2**30


#: Part of the config's ``offload`` -> part of a plan.
_OFFLOADED = {
    'autoencoder': 'autoencoder',
    'reward': 'rewards',
    'eval_rewards': 'eval rewards',
    'map': 'map',
    'text_encoders': 'text encoders',
}


@dataclass
class Plan:
    """What an iteration takes on one GPU.

    Attributes:
        phases: phase -> part -> bytes.
        counts: passes of the denoiser and samples, of one iteration on one GPU.
        flops: of one iteration on one GPU.
        rollout_flops: those of them that the rollout takes.
        traffic: phase -> bytes that one GPU sends in an iteration, see :mod:`vipo.engine.scaling`.
        notes: what was not counted.
        activations: bytes of the update ``'with'`` and ``'without'`` gradient checkpointing, whichever the config has.
    """

    phases: dict[str, dict[str, int]]
    counts: dict[str, int]
    flops: int
    rollout_flops: int = 0
    traffic: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    activations: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Bytes at the worst moment, with an allowance for what is no tensor."""
        return max(sum(parts.values()) for parts in self.phases.values()) + _OVERHEAD


def make_plan(cfg: Config, gpus: int, strategy: str = 'ddp', cost: PassCost | None = None) -> Plan:
    """Plan a config.

    Args:
        gpus: processes, one GPU each.
        strategy: one of :data:`STRATEGIES`; ``'fsdp2'`` shards weights, gradients and optimiser over the GPUs, with the
            options of the config's ``strategy``.
        cost: measured before, where only options change that it does not depend on.

    Raises:
        ConfigError: the config is wrong, or its generator is none over a diffusers pipeline.
    """
    cls = component_class(cfg.generator.get('type'))
    if not (isinstance(cls, type) and issubclass(cls, PipelineGenerator)):
        raise ConfigError('a plan needs a generator over a diffusers pipeline')
    batch = plan_batch(cfg, gpus)
    generator = GENERATORS.build({**cfg.generator, 'init': 'meta'}, at='generator')
    lora = cfg.generator.get('lora')
    micro_batch, replay_batch = (batch.longest(size) for size in (batch.micro_batch_size, batch.replay_size))
    if cost is None:
        cost = measure_pass(generator, micro_batch, lora)
    replayed = cost if replay_batch == micro_batch else measure_pass(generator, replay_batch, lora)
    total = count_parameters(generator.denoiser)[1]
    trained = total if lora is None else adapter_parameters(generator, lora)
    steps, prefix, chosen = _steps(cfg)
    loss = LOSSES.build(dict(cfg.loss), at='loss')
    shards = gpus if strategy == 'fsdp2' else 1
    networks = len(generator._networks)
    item = generator.compute_dtype.itemsize
    blocks = (block for network in generator._networks.values() for block in block_lists(network))
    in_blocks = sum(count_parameters(block)[1] for block in blocks)
    # Outside the blocks trained weights keep their precision, and adapters have theirs everywhere.
    outside = (total - in_blocks) * (_MASTER if lora is None else item)
    whole = in_blocks * item + outside + (0 if lora is None else trained * _MASTER)
    options = dict(cfg.get('strategy') or {})
    elsewhere = shards > 1 and options.get('cpu_offload')

    def mine(size: int) -> int:
        """Bytes on this GPU of what is divided."""
        return 0 if elsewhere else size // shards

    resident = {
        'weights': mine(trained * _MASTER if lora is None else total * item),
        'LoRA': 0 if lora is None else mine(trained * _MASTER),
        'Adam': mine(trained * _ADAM),
        'EMA': mine(trained * _MASTER) if cfg.get('ema') else 0,
        'reference copy': mine(total * _MASTER) if lora is None and cfg.generator.get('keep_reference') else 0,
        'encoded prompts': _encoded(generator, batch),
        **_frozen(cfg, generator),
    }
    latent = batch.samples * 4 * torch.Size(generator.latent_shape()).numel()
    # A block at work and the next one, unless the strategy keeps more; of two networks a pass uses one.
    pieces = min(2 * cost.largest_block * item + outside // networks, whole // networks)
    gathered = {
        'rollout': whole if options.get('keep_in_rollout', True) else pieces,
        'update': pieces if options.get('reshard_after_forward', True) else whole // networks,
    }
    gathered['evaluation'] = gathered['rollout']
    # A whole copy of trained float32 weights in the precision of autocast; sharded, only the block at work has one.
    copies = trained // networks * item if item < _MASTER else 0
    whole_copies = copies if shards == 1 else 0
    forward_peak = max(cost.forward_peak - (copies if lora is None else 0), 0)
    kept = latent * (1 + 2 * chosen)
    frames = generator.num_frames if hasattr(generator, 'num_frames') else 1
    activations = replayed.saved_checkpointed if cfg.generator.get('gradient_checkpointing') else replayed.saved
    phases = {
        # When the micro-batches are joined, latents are held twice.
        'rollout': {'kept latents': 2 * kept, 'activations': forward_peak, 'autocast copies': whole_copies},
        'decode, reward, map': {'kept latents': kept, 'decoding': cost.decode_peak},
        'update': {
            'kept latents': kept,
            'gradients': mine(trained * _GRADIENT),
            'DDP buckets': trained * _GRADIENT if strategy == 'ddp' and gpus > 1 else 0,
            'activations': activations,
            'autocast copies': whole_copies,
        },
        'optimiser step': {
            'kept latents': kept,
            'gradients': mine(trained * _GRADIENT),
            'DDP buckets': trained * _GRADIENT if strategy == 'ddp' and gpus > 1 else 0,
            # torch's default on a GPU works on all parameters at once
            'temporaries of AdamW': mine(trained * _MASTER),
        },
    }
    if cfg.get('evaluation'):
        size = cfg.evaluation.get('batch_size', EvaluationOptions.batch_size)
        phases['evaluation'] = {
            'activations': forward_peak * size // micro_batch,
            'autocast copies': whole_copies,
            'weights set aside for EMA': mine(trained * _MASTER) if cfg.get('ema') else 0,
            'pixels': 3 * 4 * frames * generator.height * generator.width * size,
            'decoding': cost.decode_peak
            * min(size, generator.decode_batch)
            // min(micro_batch, generator.decode_batch),
        }
    if shards > 1:
        for name, size in gathered.items():
            if name in phases:
                phases[name]['gathered weights'] = size
    branches = 2 if generator.guided and not generator.batched_guidance else 1
    groups = batch.most_groups
    shared = cfg.rollout.get('share_initial_noise', False)
    per_sample = steps - prefix if shared else steps
    forward = (per_sample * batch.samples + (prefix * groups if shared else 0)) * branches
    replays = chosen * batch.samples * branches
    references = replays if getattr(loss, 'needs_reference', False) else 0
    recomputed = 0 if batch.replay_size == batch.micro_batch_size else replays
    again = replays if cfg.generator.get('gradient_checkpointing') else 0
    # Flops are measured of a whole micro-batch with both branches.
    one = cost.forward_flops // micro_batch // branches
    back = cost.backward_flops // micro_batch // branches
    passes, replayed_passes = (len(batch.slices(size)) for size in (batch.micro_batch_size, batch.replay_size))
    first = -(-groups // batch.micro_batch_size) if shared else passes
    with_gradient = branches if generator.unconditional_gradient else 1
    others = branches - with_gradient + branches * ((references > 0) + (recomputed > 0))
    traffic = Traffic(
        world_size=gpus,
        gathered=whole // networks,
        reduced=trained // networks * _GRADIENT,
        networks=networks,
        rollout_passes=(prefix * first + (steps - prefix) * passes) * branches,
        update_passes=replayed_passes * chosen * with_gradient,
        extra_passes=replayed_passes * chosen * others,
        optimiser_steps=batch.updates_per_iteration,
    )
    away = {_OFFLOADED[name]: 0 for name in cfg.get('offload') or () if name in _OFFLOADED}
    return Plan(
        phases={
            # What is offloaded comes for its own phase alone; at worst all of it at once.
            name: {**resident, **({} if name in ('decode, reward, map', 'evaluation') else away), **parts}
            for name, parts in phases.items()
        },
        counts={
            'samples': batch.samples,
            'forward passes in rollout': forward,
            'forward and backward passes in update': replays,
            'forward passes of the reference': references,
            'forward passes for old log-probs': recomputed,
        },
        rollout_flops=forward * one,
        traffic=traffic.of_fsdp2(options) if strategy == 'fsdp2' else traffic.of_ddp(),
        flops=(forward + replays + references + recomputed + again) * one + replays * back,
        notes=_notes(cfg, generator),
        activations={'with': replayed.saved_checkpointed, 'without': replayed.saved},
    )


def plan_batch(cfg: Config, gpus: int) -> BatchPlan:
    """The section ``batch``, divided among that many processes.

    Raises:
        ConfigError: an option is unknown, or the sizes cannot be divided.
    """
    options = {**cfg.batch, 'world_size': gpus}
    check_options(BatchPlan, options, 'batch', internal=['world_size', 'rank'])
    return BatchPlan(**options)


def adapter_parameters(generator: PipelineGenerator, lora: dict[str, Any]) -> int:
    """Parameters of the adapters: rank times inputs and outputs of each adapted layer."""
    rank = lora.get('rank', 32)
    count = 0
    for part, names in generator.adapted_layers.items():
        layers = dict(generator._networks[part].named_modules())
        count += sum(rank * (layers[n].in_features + layers[n].out_features) for n in names)
    return count


def _steps(cfg: Config) -> tuple[int, int, int]:
    """Denoising steps, those before the first stochastic one on average, and trained ones."""
    selector = STEP_SELECTORS.build(dict(cfg.rollout.selector), at='rollout.selector')
    plans = [selector(cfg.rollout.num_steps, seed=0, iteration=i) for i in range(64)]
    prefix = round(sum(min(p.stochastic) for p in plans) / len(plans))
    return cfg.rollout.num_steps, prefix, max(len(p.trained) for p in plans)


def _encoded(generator: PipelineGenerator, batch: BatchPlan) -> int:
    """Bytes of the encodings of an iteration's prompts, each held once, with those of guidance."""
    numbers = sum(torch.Size(shape).numel() for shape in generator.text_shapes().values())
    return batch.most_groups * numbers * generator.compute_dtype.itemsize * (2 if generator.guided else 1)


def _frozen(cfg: Config, generator: PipelineGenerator) -> dict[str, int]:
    """Autoencoder, text encoders, rewards and backbone."""
    vae = count_parameters(generator.source.skeleton('vae'))[1]
    parts = {'autoencoder': vae * (generator.vae_dtype or generator.compute_dtype).itemsize}
    if cfg.generator.get('prompt_cache') is None:
        encoders = generator.source.text_parameters(generator.text_encoders)
        parts['text encoders'] = (encoders or 0) * generator.compute_dtype.itemsize
    for key, section in components_of(cfg):
        cls = component_class(section.get('type'))
        if hasattr(cls, 'model_bytes'):
            first = key.partition('.')[0]
            kinds = {'structurer': 'map', 'reward': 'rewards', 'eval_rewards': 'eval rewards'}
            name = kinds.get(first, 'rewards')
            size = cls.model_bytes({k: v for k, v in section.items() if k != 'type'})
            parts[name] = parts.get(name, 0) + (size or 0)
    return parts


def _notes(cfg: Config, generator: PipelineGenerator) -> list[str]:
    notes = ['activations of rewards and of the backbone are not counted: their batch sizes bound them']
    unknown = generator.source.text_parameters(generator.text_encoders) is None
    if cfg.generator.get('prompt_cache') is None and unknown:
        notes.append('the text encoders are not counted: generator.prompt_cache lets them leave memory')
    for key, section in components_of(cfg):
        cls = component_class(section.get('type'))
        if hasattr(cls, 'hub_models') and not issubclass(cls, PipelineGenerator):
            options = {k: v for k, v in section.items() if k != 'type'}
            if not hasattr(cls, 'model_bytes') or cls.model_bytes(options) is None:
                notes.append(f'the model of {key} is not counted')
    return notes


#: What may be changed so that a plan fits, from the cheapest: text and generator options.
#: Frozen parts leave the GPU while others work.
_OFFLOAD_ALL = "offload=['autoencoder', 'reward', 'eval_rewards', 'map', 'text_encoders']"
REMEDIES: list[tuple[str, dict[str, Any]]] = [
    (_OFFLOAD_ALL, {'offload': list(_OFFLOADED)}),
    ('generator.gradient_checkpointing=True', {'gradient_checkpointing': True}),
    ('generator.prompt_cache=FOLDER', {'prompt_cache': 'prompts'}),
    ('generator.lora.rank=64 in place of all weights', {'lora': {'rank': 64}}),
]


def find_remedy(cfg: Config, gpus: int, memory: float, cost: PassCost | None = None) -> str | None:
    """The first of :data:`REMEDIES`, or the first of them together, with which DDP fits into ``memory`` bytes.

    Args:
        cost: of the config as it is, where it was measured before.
    """
    open_to = [
        (text, options)
        for text, options in REMEDIES
        if not all((cfg if text == _OFFLOAD_ALL else cfg.generator).get(k) for k in options)
    ]
    trials = [[]] + [[remedy] for remedy in open_to] + [open_to[:n] for n in range(2, len(open_to) + 1)]
    batch = plan_batch(cfg, gpus)
    smallest = 2 if batch.update_samples % gpus else 1  # one by one, some ranks would make a pass more
    # Of all that is tried, only the size of a micro-batch and LoRA change what a pass costs.
    same = batch.longest(batch.micro_batch_size) == batch.longest(smallest)
    costs = {repr(cfg.generator.get('lora')): cost} if cost is not None and same else {}
    for trial in trials:
        changed = deepcopy(cfg)
        changed.batch.update(micro_batch_size=smallest, replay_micro_batch_size=None)
        for text, options in trial:
            (changed._cfg_dict if text == _OFFLOAD_ALL else changed.generator).update(ConfigDict(options))
        lora = changed.generator.get('lora')
        if repr(lora) not in costs:
            generator = GENERATORS.build({**changed.generator, 'init': 'meta'}, at='generator')
            costs[repr(lora)] = measure_pass(generator, plan_batch(changed, gpus).longest(smallest), lora)
        if make_plan(changed, gpus, cost=costs[repr(lora)]).peak <= memory:
            texts = [text for text, _ in trial]
            texts = [f'batch.micro_batch_size={smallest}'] * (cfg.batch.get('micro_batch_size', 16) > smallest) + texts
            return ' and '.join(texts) or None
    return None
