"""From a config to a run."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size, init_dist, is_distributed, is_main_process
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import distributed

from vipo.datasets.prompts import collate_prompts
from vipo.engine.clock import PhaseClock
from vipo.engine.components import Components, build_components, build_strategy, count_parameters
from vipo.engine.network import choose_interface
from vipo.engine.quiet import StaleNotices, quiet_third_parties
from vipo.engine.ranks import describe_processes
from vipo.engine.sections import check_sections
from vipo.engine.start import check_start, resume_point
from vipo.engine.values import check_environment, check_kinds
from vipo.engine.watchdog import current_watchdog, start_watchdog
from vipo.registry import ConfigError

#: Seconds that a rank waits for another one where ``env_cfg.dist_cfg.timeout`` does not say.
_TIMEOUT = 1800.0


class PolicyRunner(Runner):
    """MMEngine's runner, with the components of the run and its clock beside the model."""

    def __init__(self, components: Components, clock: PhaseClock, **options: Any) -> None:
        self.components = components
        self.clock = clock
        super().__init__(model=components.policy, **options)
        _console_level(self.logger, logging.INFO)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """While MMEngine sets itself up, its pages about the environment and the hooks go to the log file alone."""
        logger = super().build_logger(*args, **kwargs)
        _console_level(logger, logging.WARNING)
        logger.addFilter(StaleNotices())
        return logger

    def load_or_resume(self) -> None:
        """Resume from the newest complete checkpoint where ``resume`` is set without a path."""
        if self._resume and self._load_from is None:
            self._load_from = resume_point(self.cfg)
            if self._load_from is None:
                self.logger.info(f'nothing to resume in {self.work_dir}: starting from the beginning')
                self._resume = False
        #: The checkpoint that this run continues.
        self.resumed_from = self._load_from if self._resume else None
        super().load_or_resume()

    def dump_config(self) -> None:
        """Not yet: a run that is refused leaves the config of the earlier one beside its checkpoints."""

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Write the config once everything that may refuse to train has been asked."""
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train':
            super().dump_config()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Through main memory: a rank that has a part of the weights has no room for all of them on its GPU."""
        if self.components.divided:
            kwargs['map_location'] = 'cpu'
        super().resume(filename, *args, **kwargs)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        """What a strategy has divided among the ranks is in place already."""
        if self.components.divided:
            return model
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """Whole copies are sent out by rank 0; parts are what each rank should have."""
        if not self.components.divided:
            super()._init_model_weights()


def _console_level(logger: logging.Logger, level: int) -> None:
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(level if is_main_process() else logging.ERROR)


def build_runner(cfg: Config) -> PolicyRunner:
    """Build every component, then the runner around them.

    Raises:
        ConfigError: the config is wrong; raised before the first weights are loaded wherever that can be known.
    """
    init_distributed(cfg)
    clock = PhaseClock(enabled=is_main_process())
    if (watchdog := current_watchdog()) is not None:
        watchdog.clock = clock
    init_default_scope('vipo')
    quiet_third_parties()
    check_sections(cfg)
    check_start(cfg)
    if is_main_process():
        Path(cfg.work_dir).mkdir(parents=True, exist_ok=True)
    components = build_components(cfg)
    if is_distributed() and not components.divided:
        _set_wrapper(cfg, components)
    randomness = {'seed': 0, **(cfg.get('randomness') or {})}
    dataloader = dict(cfg.train_dataloader)
    dataloader['batch_size'] = components.batch.prompts_per_iteration
    dataloader.setdefault('sampler', {'type': 'PromptSampler', 'seed': randomness['seed']})
    dataloader.setdefault('collate_fn', {'type': collate_prompts})
    runner = PolicyRunner(
        components,
        clock,
        work_dir=cfg.work_dir,
        train_dataloader=dataloader,
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=cfg.get('param_scheduler'),
        default_hooks=_hooks(cfg),
        custom_hooks=cfg.get('custom_hooks'),
        visualizer=cfg.get('visualizer'),
        log_processor=cfg.get('log_processor', {'type': 'PolicyLogProcessor', 'by_epoch': False}),
        log_level=cfg.get('log_level', 'INFO'),
        env_cfg=cfg.get('env_cfg', {'dist_cfg': {'backend': 'nccl'}}),
        launcher=cfg.get('launcher', 'none'),
        load_from=cfg.get('load_from'),
        resume=cfg.get('resume', False),
        randomness=randomness,
        # MMEngine would name loggers by the second, and runs of one second would share them
        experiment_name=cfg.get('experiment_name') or f'{Path(cfg.filename or "vipo").stem}_{time.time_ns()}',
        default_scope='vipo',
        cfg=cfg,
    )
    components.to(get_device())
    return runner


def _hooks(cfg: Config) -> dict[str, Any]:
    """The section ``default_hooks``; of what is None, MMEngine wants to hear only where the hook is its own."""
    own = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
    return {k: v for k, v in (cfg.get('default_hooks') or {}).items() if v is not None or k in own}


def init_distributed(cfg: Config) -> None:
    """Start the process group; on a machine without a GPU with gloo, before MMEngine would ask for CUDA."""
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none' or is_distributed():
        return
    check_kinds(cfg)
    check_environment(cfg.get('env_cfg') or {})
    options = dict((cfg.get('env_cfg') or {}).get('dist_cfg') or {'backend': 'nccl'})
    timeout = options.get('timeout') or _TIMEOUT
    if launcher == 'slurm':
        _slurm_environment()
    if not torch.cuda.is_available() or launcher == 'pytorch':
        _check_variables(launcher)
    choose_interface()
    # The watchdog speaks first; the process group, which cannot say who is missing, comes after it.
    patience = timeout + 10
    if torch.cuda.is_available():
        if backend := build_strategy(cfg).backend:
            options['backend'] = backend
        init_dist(launcher, **{**options, 'timeout': patience})
    else:
        distributed.init_process_group('gloo', timeout=timedelta(seconds=patience))
    start_watchdog(get_rank(), get_world_size(), timeout)


def _check_variables(launcher: str) -> None:
    """Whether the environment says which process this is, before it waits for the others."""
    missing = [k for k in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if not os.environ.get(k)]
    if missing:
        raise ConfigError(
            f'--launcher {launcher} needs the environment variables {missing}; '
            'start through tools/dist_train.sh CONFIG GPUS'
        )
    numbers = {}
    for name, least, most in (('WORLD_SIZE', 1, 2**31), ('RANK', 0, 2**31), ('MASTER_PORT', 1, 65535)):
        text = os.environ[name]
        if not text.isdecimal() or not least <= int(text) <= most:
            raise ConfigError(f'the environment variable {name} must be a number from {least}, got {text!r}')
        numbers[name] = int(text)
    if numbers['RANK'] >= numbers['WORLD_SIZE']:
        raise ConfigError(
            f'RANK={numbers["RANK"]} must be below WORLD_SIZE={numbers["WORLD_SIZE"]}: ranks count from 0'
        )
    if not re.fullmatch(r'[\w.:%\[\]-]+', os.environ['MASTER_ADDR']):
        raise ConfigError(f'MASTER_ADDR must be the name or address of a machine, got {os.environ["MASTER_ADDR"]!r}')


def _slurm_environment() -> None:
    """What torchrun would set, from what Slurm does; MMEngine does this as well, and asks for CUDA on the way."""
    for name, theirs in (('RANK', 'PROCID'), ('WORLD_SIZE', 'NTASKS'), ('LOCAL_RANK', 'LOCALID')):
        if f'SLURM_{theirs}' in os.environ:
            os.environ[name] = os.environ[f'SLURM_{theirs}']
    nodes = os.environ.get('SLURM_JOB_NODELIST')
    if nodes and 'MASTER_ADDR' not in os.environ:
        said = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True)
        os.environ['MASTER_ADDR'] = said.stdout.split()[0]


def _set_wrapper(cfg: Config, components: Components) -> None:
    """Options of DDP that follow from the machine and the generator; a config's own win."""
    options: dict[str, Any] = {'type': 'MMDistributedDataParallel', **components.strategy.wrapper()}
    if not torch.cuda.is_available():
        options['device_ids'] = None  # MMEngine would hand a CUDA device to DDP
    if isinstance(components.generator.denoiser, torch.nn.ModuleDict):
        options.setdefault('find_unused_parameters', True)  # a denoising step uses one of the networks
    if len(options) > 1:
        cfg.model_wrapper_cfg = {**options, **(cfg.get('model_wrapper_cfg') or {})}


def describe(runner: PolicyRunner, verbose_ranks: bool = False) -> str:
    """What is about to run, in a few lines; every rank has to call it.

    Args:
        verbose_ranks: with a line per process.
    """
    c = runner.components
    trainable, total = count_parameters(c.policy)
    inside = [getattr(c.structurer, part) for part in ('backbone', 'allocator') if hasattr(c.structurer, part)]
    structurer = 'none' if c.structurer is None else ' + '.join(type(x).__name__ for x in inside or [c.structurer])
    weights = c.strategy.describe() if is_distributed() else 'whole: one process has nothing to divide'
    mode = f', mode {c.loss.mode}' if hasattr(c.loss, 'mode') else ''
    return '\n'.join(
        [
            '',
            f'  generator   {type(c.generator).__name__}, {trainable:,} of {total:,} parameters trained',
            f'  reward      {type(c.reward).__name__}; evaluated only: {", ".join(c.eval_rewards) or "none"}',
            f'  map         {structurer}',
            f'  loss        {type(c.loss).__name__}{mode}',
            f'  rollout     {c.rollout.num_steps} steps, {type(c.rollout.kernel).__name__} eta {c.rollout.kernel.eta}',
            f'  batch       {c.batch.describe()}',
            *(f'  {line}' for line in describe_processes(runner, verbose_ranks)),
            *([f'  weights     {weights}'] if c.strategy.shards else []),
            f'  work dir    {runner.work_dir}',
        ]
    )
