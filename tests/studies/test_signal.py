"""Cosines with directions that are known, and the tool from rollouts to page."""

import math

import pytest
import torch

from tools import study_signal
from tools.benchmark import benchmark_signal
from tools.studies.signal import collect, products, uphill
from vipo.engine.config import override, read_config


def cosine(gradients, directions):
    """As the tool computes it: the value and its error."""
    found = whole_cosine(gradients, directions)
    return found.value, found.error


def whole_cosine(gradients, directions):
    across, target = (products(x[None], directions[None])[0, :, 0] for x in (gradients, directions))
    return uphill(gradients.square().sum(1), across, target)


@pytest.mark.slow
def test_noise_lowers_the_cosine_as_it_should_and_nothing_else():
    """A mean of length 1 among 60 dimensions of noise 0.5, whose squared length is 15."""
    generator = torch.Generator().manual_seed(0)
    up = torch.nn.functional.one_hot(torch.tensor(0), 60).double()
    noise = 0.5 * torch.randn(600, 60, generator=generator, dtype=torch.float64)
    directions = up + noise
    value, error = cosine(directions, directions)
    assert value == pytest.approx(1 / math.sqrt(1 + 15), abs=4 * error)
    assert 0.002 < error < 0.02
    # the same noise on both sides does not count: a gradient without a signal has none
    value, error = cosine(noise, directions)
    assert abs(value) < 4 * error
    # one that goes up at 60 degrees, without noise
    slanted = torch.zeros(600, 60, dtype=torch.float64)
    slanted[:, 0], slanted[:, 1] = 0.5, 3**0.5 / 2
    value, error = cosine(slanted, directions)
    assert value == pytest.approx(0.5, abs=4 * error)


def test_error_is_the_spread_of_repetitions():
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(200):
        gradients = torch.randn(12, 20, generator=generator, dtype=torch.float64)
        gradients[:, 0] += 3
        found.append(cosine(gradients, gradients))
    values, errors = torch.tensor(found).T
    assert errors.mean() == pytest.approx(values.std().item(), rel=0.25)


def test_differences_are_of_the_same_rollouts():
    """Twice the gradient has the same cosine, however noisy: the difference has no error."""
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(9, 20, generator=generator, dtype=torch.float64)
    gradients[:, 0] += 1
    one, two = whole_cosine(gradients, gradients), whole_cosine(2 * gradients, gradients)
    assert one.error > 0.05
    less = two.less(one)
    assert (less.value, less.error) == pytest.approx((0, 0), abs=1e-12)
    # and its error is that of the spread of repetitions
    found = []
    for _ in range(200):
        gradients = torch.randn(12, 20, generator=generator, dtype=torch.float64)
        gradients[:, 0] += 3
        less = whole_cosine(gradients[:, :10], gradients[:, :10]).less(whole_cosine(gradients, gradients))
        found.append((less.value, less.error))
    values, errors = torch.tensor(found).T
    assert errors.mean() == pytest.approx(values.std().item(), rel=0.3)


def test_products_are_those_of_all_pairs():
    a, b = (torch.randn(n, 3, 70_000, generator=torch.Generator().manual_seed(n)) for n in (2, 1))
    torch.testing.assert_close(products(a, b), torch.einsum('akp,bjp->akbj', a.double(), b.double()))


def test_too_few_rollouts():
    with pytest.raises(ValueError, match='at least 3'):
        uphill(torch.ones(2), torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(SystemExit):
        study_signal.main(['--rollouts', '2'])


def test_no_common_direction_is_no_number():
    opposite = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    assert math.isnan(cosine(opposite, opposite)[0])


def test_missing_table_says_where_it_comes_from(tmp_path, capsys):
    assert study_signal.main(['--report', '--out', str(tmp_path)]) == 2
    assert 'tools/study_signal.py writes one' in capsys.readouterr().err


@pytest.mark.slow
def test_gradients_are_those_of_the_update():
    """The benchmark goes through the update itself, with an optimiser that only collects."""
    options = {'batch.prompts_per_iteration': 1}
    cfg = read_config(study_signal.CONFIG)
    override(cfg, options)
    by_map, by_score = collect(cfg, {'ones': {'type': 'PriorStructurer'}}, 3, lambda number: None)
    assert list(by_score) == ['reward', 'judge']
    torch.testing.assert_close(by_map['ones'], by_score['reward'])
    unit = torch.nn.functional.normalize(by_score['reward'].double(), dim=1)
    ours = (unit @ unit.T)[torch.triu_indices(3, 3, 1).unbind()].mean().item()
    theirs = benchmark_signal(str(study_signal.CONFIG), 3, {**options, 'structurer': None})
    assert ours == pytest.approx(theirs['cosine'], abs=1e-5)


@pytest.mark.slow
def test_from_rollouts_to_page(tmp_path, monkeypatch):
    few = {k: v for k, v in study_signal.maps().items() if k in ('none (GRPO)', 'oracle, random')}
    monkeypatch.setattr(study_signal, 'maps', lambda: few)
    few_rollouts = ['--rollouts', '3', '--prompts', '1', '--trained', 'objects alone']
    assert study_signal.main([*few_rollouts, '--out', str(tmp_path)]) == 0
    tables = study_signal.read(tmp_path / 'signal.csv')
    assert list(tables) == ['objects alone']
    assert list(tables['objects alone']) == list(study_signal.SCORES)
    assert all(list(of) == list(few) for of in tables['objects alone'].values())
    page = (tmp_path / 'signal.md').read_text()
    assert page.count('| oracle, random |') == 1
    assert (tmp_path / 'signal.png').stat().st_size > 5000
    assert 'gained by training' not in page
    rows = ['section,variant,seed,measure,before,after,difference,low,high,settings']
    rows += [f'h,fit_grpo,{seed},reward,0,0,{change},0,1,' for seed, change in enumerate((0.1, 0.3))]
    (tmp_path / 'results.csv').write_text('\n'.join(rows) + '\n')
    assert study_signal.main(['--report', '--out', str(tmp_path)]) == 0
    assert '| +0.2000 (`fit_grpo`, 2 seeds) |' in (tmp_path / 'signal.md').read_text()
    (tmp_path / 'results.csv').unlink()
    (tmp_path / 'signal.md').write_text('What we saw.\n' + page)
    assert study_signal.main(['--report', '--out', str(tmp_path)]) == 0
    assert (tmp_path / 'signal.md').read_text() == 'What we saw.\n' + page
