"""What a CPU cannot show: the same numbers on a GPU, in its precision, and memory that is given back.

pytest tests/gpu        # a minute on one GPU; skipped where there is none
"""

import pytest
import torch

from tests.engine.conftest import history, run, small_config, weights
from vipo.diffusion import CPSKernel, DanceKernel, FlowKernel
from vipo.structurers import PCAAllocator, PerceptualStructurer
from vipo.structurers.backbones import DINOv2Backbone
from vipo.structurers.principal import principal_components

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]


@pytest.mark.parametrize('kind', [DanceKernel, FlowKernel, CPSKernel])
def test_transitions_are_those_of_the_cpu(kind, normal):
    x, v, noise = (normal(2, 16, 1, 8, 8, seed=seed) for seed in range(3))
    for now, then in ((1.0, 0.8), (0.5, 0.3)):
        here = kind(0.7).step(x, v, now, then, noise=noise)
        there = kind(0.7).step(x.cuda(), v.cuda(), now, then, noise=noise.cuda())
        for name in ('x_next', 'mean', 'log_prob'):
            torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), atol=1e-4, rtol=1e-4)


def test_components_are_those_of_the_cpu(normal):
    tokens = normal(5, 510, 384) * torch.linspace(3, 0.1, 384) + 2
    for there, here in zip(principal_components(tokens.cuda(), 3), principal_components(tokens, 3), strict=True):
        torch.testing.assert_close(there.cpu(), here, atol=2e-3, rtol=2e-3)


def test_map_is_that_of_the_cpu():
    pixels = torch.rand(3, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels[:, :, :, 16:40, 8:32] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1, 1)
    maps = [
        PerceptualStructurer(DINOv2Backbone('vipo://tiny-dinov2', device=device), PCAAllocator())(
            pixels.to(device), (1, 16, 16)
        )
        for device in ('cpu', 'cuda')
    ]
    assert maps[1].is_cuda
    torch.testing.assert_close(maps[1].cpu(), maps[0], atol=2e-2, rtol=0)  # its convolutions may work in TF32


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_main_job(tmp_path, dtype):
    """Replay on a GPU computes what rollout did: every first ratio is exactly 1, in half precision too."""
    finished = run(small_config(tmp_path / 'run', generator__dtype=dtype))
    assert finished.components.generator.device.type == 'cuda'
    rows = history(finished)
    assert [row['first_ratio_deviation'] for row in rows] == [0, 0]
    assert all(row['ratio_deviation'] > 0 and row['memory/peak_mib'] > 0 for row in rows)
    assert all(p.isfinite().all() for p in weights(finished).values())


def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = run(small_config(tmp_path / 'whole', train_cfg__max_iters=4))
    run(small_config(tmp_path / 'half', train_cfg__max_iters=2))
    cfg = small_config(tmp_path / 'half', train_cfg__max_iters=4)
    cfg.resume = True
    resumed = run(cfg)
    for (name, expected), found in zip(weights(whole).items(), weights(resumed).values(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0, msg=name)


def test_frozen_parts_leave_the_gpu_between_their_phases(tmp_path):
    cfg = small_config(tmp_path / 'run')
    cfg.offload = ['reward', 'map', 'text_encoders', 'autoencoder']
    c = run(cfg).components
    parts = (c.generator.pipe.vae, c.generator.pipe.text_encoder, c.structurer.backbone.model)
    assert all(p.device.type == 'cpu' for part in parts for p in part.parameters())
    assert all(p.is_cuda for p in c.policy.parameters())
