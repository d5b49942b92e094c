"""What a plan says is sent, against figures by hand and against what two processes really send."""

import json

import pytest

from tests.engine.conftest import ROOT, SMALL
from tests.engine.launch import launch
from vipo.engine.config import override, read_config
from vipo.engine.plan import make_plan
from vipo.engine.scaling import Links, Traffic, scaling
from vipo.generators.twins import save_twin

#: Two networks of 400 bytes and 100 of gradients; 4 GPUs, each of which sends three quarters of everything.
BY_HAND = Traffic(
    world_size=4,
    gathered=400,
    reduced=100,
    networks=2,
    rollout_passes=12,
    update_passes=6,
    extra_passes=2,
    optimiser_steps=3,
)


def test_traffic_by_hand():
    assert BY_HAND.of_ddp() == {'rollout': 0, 'update': 2 * 200 * 3 * 3 // 4}
    assert BY_HAND.of_fsdp2({}) == {'rollout': 2 * 400 * 3 // 4, 'update': (14 * 400 + 6 * 100) * 3 // 4}
    kept = {'keep_in_rollout': False, 'reshard_after_forward': False}
    assert BY_HAND.of_fsdp2(kept) == {'rollout': 12 * 400 * 3 // 4, 'update': (8 * 400 + 6 * 100) * 3 // 4}


def test_efficiency_by_hand():
    """3 s of work where 2.4 would be a fair share, and 1 s on the wire between nodes."""
    links = Links(flops=100.0, gpu=50.0, node=20.0)
    found = scaling(flops=300, even_share=240.0, sent=20, nodes=2, links=links)
    assert (found.compute, found.transfer) == (3.0, 1.0)
    assert (found.lowest, found.highest) == (pytest.approx(0.6), pytest.approx(0.8))
    # Within a node the GPUs' own links count, and a slow one of these counts between nodes too.
    assert scaling(300, 300.0, 20, 1, links).transfer == 0.4
    assert scaling(300, 300.0, 20, 2, Links(100.0, 10.0, 20.0)).transfer == 2.0


COUNT = """
import json
from pathlib import Path

import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook


class Count(Hook):
    '''Bytes that a ring would send from this rank for every collective on weights and gradients.'''

    def __init__(self, file):
        self.file, self.sent, self.phase = file, {}, None

    def _count(self, tensor, factor):
        if self.phase:
            share = factor * (get_world_size() - 1) / get_world_size()
            size = tensor.numel() * tensor.element_size() * share
            self.sent[self.phase] = self.sent.get(self.phase, 0) + size

    def _wrap(self, names, whole):
        name = next(n for n in names if hasattr(dist, n))  # torch 2.15 has new ones
        original = getattr(dist, name)

        def counted(*args, **kwargs):
            everything = {**dict(zip(('output_tensor', 'input_tensor'), args)), **kwargs}
            self._count(everything.get(whole, everything.get(whole.removesuffix('_tensor'))), 1)
            return original(*args, **kwargs)

        setattr(dist, name, counted)

    def before_train(self, runner):
        if hasattr(runner.model, 'register_comm_hook'):
            def average(state, bucket):
                self._count(bucket.buffer(), 2)
                done = dist.all_reduce(bucket.buffer().div_(get_world_size()), async_op=True).get_future()
                return done.then(lambda future: future.value()[0])

            runner.model.register_comm_hook(None, average)
        else:
            self._wrap(('all_gather_single', 'all_gather_into_tensor'), 'output_tensor')
            self._wrap(('reduce_scatter_single', 'reduce_scatter_tensor'), 'input_tensor')

    def before_train_iter(self, *args, **kwargs):
        self.phase = 'rollout'

    def after_rollout(self, runner, samples):
        self.phase = 'update'

    def after_update(self, runner, samples):
        self.phase = None
        if get_rank() == 0:
            Path(self.file).write_text(json.dumps(self.sent))
"""


@pytest.mark.slow
@pytest.mark.parametrize('strategy', ['ddp', 'fsdp2'])
def test_what_is_planned_is_what_two_processes_send(tmp_path, strategy):
    """A pass for the reference and one for the old policy beside that with gradients."""
    twin = save_twin('wan21', tmp_path / 'twin')
    (tmp_path / 'count.py').write_text(COUNT)
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py', '{ROOT}/configs/_base_/strategies/{strategy}.py']
generator = dict(
    _delete_=True, type='WanGenerator', pretrained='{twin}', resolution=(64, 64), num_frames=1, guidance_scale=1.0,
    max_sequence_length=16, dtype='float32', keep_reference=True,
)
loss = dict(kl_weight=0.1)
custom_hooks = [dict(type='count.Count', file='{tmp_path}/sent.json')]
""")
    options = {
        **SMALL,
        'train_cfg.max_iters': 1,
        'batch.micro_batch_size': 2,
        'batch.replay_micro_batch_size': 1,
        'batch.updates_per_iteration': 2,
        'evaluation': None,
    }
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'), options=options)
    assert code == 0, said[-3000:]
    sent = json.loads((tmp_path / 'sent.json').read_text())
    cfg = read_config(config)
    override(cfg, options)
    planned = make_plan(cfg, 2, strategy).traffic
    assert sent.get('rollout', 0) == pytest.approx(planned['rollout'], rel=0.02)
    assert sent['update'] == pytest.approx(planned['update'], rel=0.02)
