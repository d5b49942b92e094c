"""Processes that share the weights learn what one process learns, and checkpoints fit any strategy and world size."""

import json
from itertools import count

import numpy as np
import pytest
import torch

from tests.engine.conftest import ROOT, SMALL, run, small_config
from tests.engine.launch import launch
from vipo.engine.config import override, read_config
from vipo.engine.evaluation import Evaluation
from vipo.generators.twins import save_twin

OPTIONS = {**SMALL, 'batch.updates_per_iteration': 1, 'evaluation': None}
#: Two optimiser steps of Adam on gradients that were summed in another order.
CLOSE = {'rtol': 0.0, 'atol': 1e-5}
_numbers = count()


def write(folder, strategy, more=''):
    """A config of the main job with a strategy."""
    path = folder / f'{strategy}_{next(_numbers)}.py'
    path.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py', '{ROOT}/configs/_base_/strategies/{strategy}.py']\n{more}"
    )
    return path


def load(work_dir, done=2):
    return torch.load(work_dir / f'iter_{done}.pth', weights_only=True)


def one_process(work_dir, options):
    run(small_config(work_dir, **{k.replace('.', '__'): v for k, v in options.items()}))


def assert_same_run(one, two):
    """Weights, averages, moments and what was logged."""
    ours, theirs = load(one), load(two)
    for part in ('state_dict', 'ema'):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in ours[part].items():
            torch.testing.assert_close(theirs[part][name], tensor, **CLOSE, msg=f'{part} {name}')
    assert_same_optimizer(ours['optimizer'], theirs['optimizer'], **CLOSE)
    rows = [[json.loads(line) for line in (p / 'history.jsonl').read_text().splitlines()] for p in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 2
    for key in ('reward', 'reward_std', 'policy_loss', 'first_ratio_deviation', 'map/entropy'):
        assert [r[key] for r in rows[1]] == pytest.approx([r[key] for r in rows[0]], abs=1e-5), key


def assert_same_optimizer(ours, theirs, **tolerance):
    assert ours['param_groups'] == theirs['param_groups']
    assert ours['state'].keys() == theirs['state'].keys()
    for number, values in ours['state'].items():
        for name, value in values.items():
            torch.testing.assert_close(theirs['state'][number][name], value, **tolerance, msg=f'{name} of {number}')


@pytest.mark.slow
def test_every_part_of_a_config_under_sharing(tmp_path):
    """Two networks, guidance in two passes, a frozen reference, checkpointed blocks, parts in main memory."""
    # Twins are float32, and every pass gathers its blocks.
    twin = save_twin('wan22', tmp_path / 'twin')
    generator = f"""
generator = dict(
    _delete_=True, type='WanGenerator', pretrained='{twin}', resolution=(64, 64), num_frames=1, guidance_scale=3.0,
    max_sequence_length=16, keep_reference=True, gradient_checkpointing=True,
)
loss = dict(kl_weight=0.1)
"""
    options = {**OPTIONS, 'batch.group_size': 2, 'batch.micro_batch_size': 2, 'optim_wrapper.optimizer.lr': 1e-5}
    # Three held-out prompts are no even share for two.
    del options['evaluation']
    options |= {'evaluation.num_prompts': 3, 'evaluation.num_steps': 1, 'evaluation.batch_size': 1}
    plain = write(tmp_path, 'ddp', generator)
    shared = write(tmp_path, 'fsdp2_offload', generator + 'strategy = dict(keep_in_rollout=False)\n')
    cfg = read_config(plain)
    override(cfg, options)
    cfg.work_dir = str(tmp_path / 'one')
    run(cfg)
    code, said = launch(shared, '--work-dir', str(tmp_path / 'two'), options=options)
    assert code == 0, said[-3000:]
    assert_same_run(tmp_path / 'one', tmp_path / 'two')
    for done in (0, 2):
        ours, theirs = (Evaluation.load(tmp_path / n / 'evaluations' / f'iter_{done}.npz') for n in ('one', 'two'))
        assert ours.prompts == theirs.prompts
        for name, scores in ours.scores.items():
            np.testing.assert_allclose(theirs.scores[name], scores, rtol=0, atol=1e-5, err_msg=name)
        # A level of 255 may round the other way.
        assert np.abs(ours.pixels.astype(int) - theirs.pixels).max() <= 1


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_all_ranks(tmp_path):
    (tmp_path / 'spoil.py').write_text(
        'from mmengine.dist import get_rank\n'
        'from mmengine.hooks import Hook\n'
        'class Spoil(Hook):\n'
        '    def after_reward(self, runner, samples):\n'
        '        if get_rank() == 1:\n'
        "            samples.advantage[:] = float('nan')\n"
    )
    config = write(tmp_path, 'fsdp2', "custom_hooks = [dict(type='spoil.Spoil')]\n")
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'), options=OPTIONS)
    assert code != 0
    assert said.count('gradients are not finite') == 2
    assert not list((tmp_path / 'run').glob('iter_*.pth'))


RESAVE = """
from pathlib import Path

from mmengine.hooks import Hook


class Resave(Hook):
    '''Writes what was resumed, before anything is trained.'''

    priority = 'LOWEST'

    def before_train(self, runner):
        hook = next(h for h in runner.hooks if type(h).__name__ == 'PolicyCheckpointHook')
        hook.save(runner, runner.iter)
"""


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A run of four prompts: two iterations in one process, and the first of them by two that share the weights."""
    folder = tmp_path_factory.mktemp('strategies')
    (folder / 'resave.py').write_text(RESAVE)
    options = {**OPTIONS, 'batch.prompts_per_iteration': 4, 'batch.micro_batch_size': 2}
    one_process(folder / 'one', options)
    config = write(folder, 'fsdp2')
    arguments = ('--work-dir', str(folder / 'first'))
    code, said = launch(config, *arguments, options={**options, 'train_cfg.max_iters': 1})
    assert code == 0, said[-3000:]
    return folder, options


@pytest.mark.slow
@pytest.mark.parametrize(('strategy', 'processes'), [('ddp', 4), ('fsdp2', 3)], ids=lambda x: str(x))
def test_a_shared_run_goes_on_anywhere(saved, strategy, processes):
    """Whole copies or another number of parts, one process or several: the same state bit for bit, the same run."""
    folder, options = saved
    if processes == 3:
        options = {**options, 'batch.prompts_per_iteration': 6}  # other prompts than the first iteration had
    config = write(folder, strategy, "custom_hooks = [dict(type='resave.Resave')]\n")
    work_dir = folder / f'{strategy}_{processes}'
    code, said = launch(
        config,
        *('--work-dir', str(work_dir), '--resume', str(folder / 'first' / 'iter_1.pth')),
        options=options,
        processes=processes,
    )
    assert code == 0, said[-3000:]
    before, after = load(folder / 'first', 1), load(work_dir, 1)
    for part in ('state_dict', 'ema'):
        assert before[part].keys() == after[part].keys()
        assert all(torch.equal(before[part][k], after[part][k]) for k in before[part])
    assert_same_optimizer(before['optimizer'], after['optimizer'], rtol=0.0, atol=0.0)
    if processes != 3:
        ours, theirs = load(folder / 'one'), load(work_dir)
        for part in ('state_dict', 'ema'):
            for name, tensor in ours[part].items():
                torch.testing.assert_close(theirs[part][name], tensor, **CLOSE, msg=f'{part} {name}')


@pytest.mark.slow
def test_a_shared_run_goes_on_without_a_launcher(saved):
    folder, options = saved
    point = str(folder / 'first' / 'iter_1.pth')
    one_process(folder / 'plain', {**options, 'resume': True, 'load_from': point})
    theirs = load(folder / 'plain')
    for name, tensor in load(folder / 'one')['state_dict'].items():
        torch.testing.assert_close(theirs['state_dict'][name], tensor, **CLOSE, msg=name)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_shared(saved, tmp_path):
    folder, options = saved
    (tmp_path / 'resave.py').write_text(RESAVE)
    one_process(tmp_path / 'first', {**options, 'train_cfg.max_iters': 1})
    config = write(tmp_path, 'fsdp2', "custom_hooks = [dict(type='resave.Resave')]\n")
    resume = ('--resume', str(tmp_path / 'first' / 'iter_1.pth'))
    code, said = launch(config, '--work-dir', str(tmp_path / 'then'), *resume, options=options)
    assert code == 0, said[-3000:]
    before, after = load(tmp_path / 'first', 1), load(tmp_path / 'then', 1)
    assert all(torch.equal(before['state_dict'][k], after['state_dict'][k]) for k in before['state_dict'])
    assert_same_optimizer(before['optimizer'], after['optimizer'], rtol=0.0, atol=0.0)
    theirs = load(tmp_path / 'then')
    for name, tensor in load(folder / 'one')['state_dict'].items():
        torch.testing.assert_close(theirs['state_dict'][name], tensor, **CLOSE, msg=name)


@pytest.mark.slow
def test_ranks_that_loaded_other_weights_do_not_share_them(tmp_path):
    """Parts of two different networks would pass every later check: each rank would see the same wrong whole."""
    twins = [save_twin('sd3', tmp_path / f'twin_{seed}', seed=seed) for seed in (0, 1)]
    config = write(
        tmp_path,
        'fsdp2',
        f"import os\ngenerator = dict(pretrained={dict(zip('01', twins, strict=True))}[os.environ['RANK']])\ndel os\n",
    )
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'), options=OPTIONS)
    assert code != 0
    assert 'the weights on rank(s) [1] differ from those on rank 0 before they are divided' in said
