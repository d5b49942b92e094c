"""Fixtures that several rooms share."""

import os

import pytest
import torch

import vipo  # noqa: F401  first: test processes that start together must not stumble over yapf's cache

if 'PYTEST_XDIST_WORKER' in os.environ:  # one of several test processes, and so are the programs that it starts
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
else:
    torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture
def normal():
    """``normal(*shape, seed=0)``: standard normal numbers that no other test can disturb."""

    def draw(*shape, seed=0):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture
def gaussian_velocity():
    """``gaussian_velocity(mean, std)``: the exact velocity for data N(mean, std^2), in closed form.

    With x_sigma = (1 - sigma) x0 + sigma noise everything is jointly normal, so the best prediction of noise - x0 is
    a linear regression on x_sigma.
    """

    def make(mean, std):
        def velocity(x, sigma):
            variance = (1 - sigma) ** 2 * std**2 + sigma**2
            deviation = x - (1 - sigma) * mean
            noise = sigma / variance * deviation
            data = mean + (1 - sigma) * std**2 / variance * deviation
            return noise - data

        return velocity

    return make
