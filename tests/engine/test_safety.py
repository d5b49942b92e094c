"""Checks that stop a run: weights, first ratios, losses and gradients, alone and on one rank of several."""

import os
import struct

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import vipo.engine.checksum as checksum_module
from tests.engine.conftest import ROOT, SMALL, weights
from tests.engine.launch import launch
from vipo.engine.checksum import checksum
from vipo.engine.finite import find_not_finite
from vipo.engine.parallel import EqualWeights, leave
from vipo.engine.runner import build_runner
from vipo.engine.scoring import RunStopped
from vipo.engine.update import _check_first_ratio
from vipo.engine.watchdog import end_now
from vipo.losses import PolicyLoss
from vipo.registry import ConfigError


def by_hand(values: list[float]) -> int:
    """The sum in Python's own integers, from the bytes of the numbers."""
    bits = struct.unpack(f'<{len(values)}i', struct.pack(f'<{len(values)}f', *values))
    total = sum(b * (place * checksum_module._SPREAD * 2 + 1) for place, b in enumerate(bits)) % 2**64
    return total - 2**64 * (total >= 2**63)


def test_checksum_is_the_sum_of_bits_whatever_the_pieces(monkeypatch):
    values = [0.5, -1.0, 3e-40, float('inf'), float('nan'), 0.0, 7.25]
    expected = by_hand(values)
    assert checksum(torch.tensor(values)).item() == expected
    monkeypatch.setattr(checksum_module, '_PIECE', 2)
    assert checksum(torch.tensor(values)).item() == expected


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_checksum_sees_a_bit_a_place_and_the_sign_of_zero(dtype):
    x = torch.arange(12).to(dtype).view(3, 4)
    same = checksum(x.clone())
    assert checksum(x.t().contiguous().t()) == same, 'the order in memory does not count'
    swapped = x.flatten()[[1, 0, *range(2, 12)]]
    assert checksum(swapped) != same
    if dtype.is_floating_point:
        assert checksum(x * 1.01) != same
        zero = x.clone()
        zero[0, 0] = -0.0
        assert torch.equal(zero, x)
        assert checksum(zero) != same


def test_comparing_less_than_never_is_refused(cfg):
    with pytest.raises(ConfigError, match='compare_weights_every must be at least 0, got -1'):
        _ = build_runner(cfg(train_cfg__compare_weights_every=-1)).train_loop


class BrokenLoss(PolicyLoss):
    """Not a number in one micro-step of rank ``at``, or of the only one."""

    def __init__(self, call, at=0, **options):
        super().__init__(**options)
        self.left, self.at = call, at

    def __call__(self, *arguments):
        loss, logs = super().__call__(*arguments)
        self.left -= 1
        mine = int(os.environ.get('RANK', 0)) == self.at
        return loss * float('nan') if self.left == 0 and mine else loss, logs


def test_a_loss_that_is_not_finite_stops_with_its_batch(cfg):
    """The second of four micro-steps of the second optimiser step: samples 4 to 7, the second trained step."""
    runner = build_runner(cfg(loss={'type': f'{__name__}.BrokenLoss', 'call': 4}, evaluation=None))
    optim, at_step = runner.build_optim_wrapper(runner.optim_wrapper), {}
    runner.optim_wrapper = optim
    step = optim.step

    def watched():
        step()
        at_step.update(weights(runner))

    optim.step = watched
    with pytest.raises(
        RunStopped, match=r'(?s)iteration 1 a loss is not finite and \d+ gradients.*--resume'
    ) as stopped:
        runner.train()
    assert at_step
    assert all(torch.equal(at_step[k], v) for k, v in weights(runner).items())
    path = f'{runner.work_dir}/nonfinite_iter_1_rank_0.pt'
    assert path in str(stopped.value)
    batch = torch.load(path, weights_only=True)
    assert batch['samples'] == batch['numbers'].tolist() == [4, 5, 6, 7]
    assert batch['micro_steps'] == [{'samples': [4, 5, 6, 7], 'step': batch['steps'][1]}]
    assert batch['losses'].isfinite().tolist() == [True, False]
    assert len(batch['prompts']) == len(batch['seeds']) == len(batch['rewards']) == len(batch['advantages']) == 4
    assert batch['map'].shape[0] == 4
    assert batch['old_log_prob'].shape == batch['new_log_prob'].shape
    assert batch['old_log_prob'].shape[:2] == (2, 4)
    assert not torch.equal(batch['old_log_prob'], batch['new_log_prob']), 'one optimiser step has been made since'
    assert batch['parameters']


def test_a_batch_that_cannot_be_written_down_hides_nothing(cfg):
    runner = build_runner(cfg(loss={'type': f'{__name__}.BrokenLoss', 'call': 1}, evaluation=None))
    os.makedirs(f'{runner.work_dir}/nonfinite_iter_1_rank_0.pt')
    with pytest.raises(RunStopped, match=r'a loss is not finite.*rank 0 could not write it'):
        runner.train()


def two_ranks(rank: int, folder: str) -> None:
    """What one rank finds, all say."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)

    def fresh():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))

    network, compare = fresh(), EqualWeights(every=3)
    network[0].requires_grad_(False)
    compare(network, 1)
    with torch.no_grad():
        network[1].bias[2] = -network[1].bias[2] if rank else network[1].bias[2]
        compare(network, 2)  # not its turn
        with pytest.raises(
            RunStopped, match=r'on rank\(s\) \[1\].*after iteration 3: 1 of 2 tensors, the first is 1.bias'
        ):
            compare(network, 3)
        network[0].weight[0, 0] += rank
        with pytest.raises(RunStopped, match=r'2 of 4 tensors, the first is 0.weight'):
            EqualWeights(every=0)(network, 5)  # the first time, frozen weights as well

    _check_first_ratio(1e-9, tolerance=1e-6)
    for value in (0.25, float('nan')):
        with pytest.raises(RunStopped, match=rf'\|ratio - 1\| is {value:.3g} on rank 1, but'):
            _check_first_ratio(value if rank else 0.0, tolerance=1e-6)

    divided = fully_shard(fresh(), mesh=init_device_mesh('cpu', (2,)))
    EqualWeights(every=1)(divided, 1)  # of each part there is one copy
    fine = [torch.tensor(1.0)]
    divided(torch.ones(1, 4)).sum().backward()
    assert find_not_finite(divided, fine) is None
    if rank:
        divided[1].weight.grad.to_local()[0, 0] = float('inf')
    found = find_not_finite(divided, fine)
    assert (found.losses, found.parameters, found.in_loss, found.ranks) == ([], ['1.weight'], False, [1])
    found = find_not_finite(divided, fine if rank else [torch.tensor(float('nan'))])
    assert (found.losses, found.in_loss, found.ranks) == ([] if rank else [0], True, [0])
    leave()
    end_now(0)  # see leave: Python's own end may abort a rank


@pytest.mark.slow
def test_two_ranks_find_what_one_has(tmp_path):
    mp.start_processes(two_ranks, (str(tmp_path),), nprocs=2, start_method='spawn')


@pytest.mark.slow
def test_a_loss_of_one_rank_stops_all_before_the_step_under_fsdp2(tmp_path):
    config = tmp_path / 'broken.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py', '{ROOT}/configs/_base_/strategies/fsdp2.py']\n"
        f"loss = dict(type='{__name__}.BrokenLoss', call=2, at=1)\n"
    )
    folder = tmp_path / 'run'
    options = {**SMALL, 'batch.updates_per_iteration': 1, 'evaluation': None}
    code, said = launch(config, '--work-dir', str(folder), options=options)
    assert code != 0
    assert said.count('error: in iteration 1 a loss is not finite') == 2, said[-3000:]
    assert 'on rank(s) [1]; the optimiser step was not taken' in said
    assert [p.name for p in folder.glob('nonfinite*')] == ['nonfinite_iter_1_rank_1.pt']
    batch = torch.load(folder / 'nonfinite_iter_1_rank_1.pt', weights_only=True)
    assert batch['rank'] == 1
    assert torch.equal(batch['old_log_prob'], batch['new_log_prob'])
    assert not list(folder.glob('iter_*.pth'))
