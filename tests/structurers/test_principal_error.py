"""The estimated error of principal components against the one that is found, where eigenvectors are known."""

import pytest
import torch
from torch import Tensor

from vipo.structurers import principal

#: Eigenvalues beyond the strongest four.
TAILS = {'steep': [0.7 ** (2 * k) for k in range(120)], 'slow': [1 / (k + 1) for k in range(120)]}


def compared(rows: Tensor, eigenvalues: Tensor, count: int) -> tuple[float, float, Tensor]:
    """Of projections on images of Ritz vectors: their error, the estimate of it, and the Ritz values.

    The scatter is diagonal, so that its eigenvectors are unit vectors; ``rows`` ``(B, D)`` span the basis.
    """
    basis = torch.linalg.qr(rows.T).Q.T
    ritz, vectors = torch.linalg.eigh(basis * eigenvalues @ basis.T)
    ritz, axes = ritz.flip(0), vectors.flip(1).T @ basis
    images = axes * eigenvalues
    residuals = images - ritz[:, None] * axes
    found = torch.nn.functional.normalize(images[:count], dim=1)
    exact = torch.eye(count, len(eigenvalues), dtype=torch.float64) * found.diagonal().sign()[:, None]
    off = (((found - exact).square() * eigenvalues).sum(1) / eigenvalues[:count]).sqrt().max().item()
    error, _ = principal._error(ritz[None], (residuals @ residuals.T)[None], count)
    return off, error.item(), ritz


@pytest.fixture(autouse=True)
def without_rounding(monkeypatch):
    monkeypatch.setattr(principal, '_ROUNDING', 0.0)


@pytest.mark.parametrize('tail', TAILS)
@pytest.mark.parametrize('near', [0.3, 0.03])
@pytest.mark.parametrize('off', [0.1, 0.03, 0.01])
@pytest.mark.parametrize('rows', [8, 16])
def test_of_a_basis_that_is_off_by_so_much(normal, tail, near, off, rows):
    eigenvalues = torch.tensor([9.0, 9 / (1 + near) ** 2, 4.0, 1.96, *TAILS[tail]], dtype=torch.float64)
    d = len(eigenvalues)
    basis = torch.eye(rows, d, dtype=torch.float64) + off / d**0.5 * normal(rows, d).double()
    found, estimated, _ = compared(basis, eigenvalues, 3)
    most = {(16, 'steep'): 1.1, (16, 'slow'): 3, (8, 'steep'): 9, (8, 'slow'): 12}[rows, tail]
    assert 0.95 * found <= estimated <= most * found


@pytest.mark.parametrize(
    ('tail', 'tilted'),
    [(1e-4, (0, 3)), (1e-4, (0, 2)), (1e-4, (2, 3)), (0.3, (0,)), (0.3, (2,))],
    ids=['along a weaker one', 'along each other', 'along a much weaker one', 'beyond all', 'beyond all, more'],
)
def test_every_part(tail, tilted):
    """Rows of the basis lean towards an eigenvector beyond it, of an eigenvalue near ``tail``."""
    strengths = torch.linspace(1, 0.9, 37, dtype=torch.float64) * tail
    basis = torch.eye(16, 41, dtype=torch.float64)
    basis[list(tilted), 30] = 0.1
    found, estimated, _ = compared(basis, torch.cat([torch.tensor([4.0, 2.5, 1.6, 0.5]), strengths]), 3)
    assert 0.9 * found <= estimated <= 1.3 * found


def lacking(strength):
    """Of the fifth eigenvector the basis has a tenth, in a row of little strength, and a trace, in its first row."""
    basis = torch.eye(41, dtype=torch.float64)[[0, 1, 2, 3, *range(5, 17)]]
    basis[0, 4], basis[4, 4] = 0.02, 0.1**0.5
    return basis, torch.tensor([4.0, 2.5, 1.6, 0.5, strength, *[0.01] * 36], dtype=torch.float64)


def test_what_the_basis_lacks_is_as_strong_as_what_it_has_found():
    found, estimated, ritz = compared(*lacking(0.45), 1)
    assert ritz[4] < 0.1, 'for 0.45'
    assert 0.9 * found <= estimated <= 1.5 * found


@pytest.mark.parametrize(('strength', 'hidden'), [(0.45, False), (3.0, True)])
def test_a_component_may_be_hidden_in_what_is_not_found_yet(strength, hidden):
    """No row but that of little strength has any of it, as where it is orthogonal to all others."""
    basis, eigenvalues = lacking(strength)
    basis[0, 4] = 0
    _, estimated, ritz = compared(basis, eigenvalues, 3)
    assert ritz[3] < 1, 'the three that matter are found without it'
    assert (estimated == torch.inf) == hidden
    assert hidden or estimated < 1e-10
