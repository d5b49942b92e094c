"""Principal components against scikit-learn's, and when the quick way to them is not taken."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from vipo.structurers import principal
from vipo.structurers.principal import principal_components


@pytest.fixture
def exact_calls(monkeypatch):
    """How many items went through the exact decomposition, call by call."""
    calls, exact = [], principal._exact
    monkeypatch.setattr(principal, '_exact', lambda x, count: calls.append(len(x)) or exact(x, count))
    return calls


@pytest.fixture
def tokens(normal):
    """``tokens(items, N, D, strengths)``: noise with as many strong directions."""

    def make(items, n, d, strengths, seed=0):
        noise = normal(items, n, d, seed=seed)
        directions = torch.linalg.qr(normal(items, d, len(strengths), seed=seed + 1)).Q
        weights = normal(items, n, len(strengths), seed=seed + 2) * torch.tensor(strengths)
        return noise + weights @ directions.mT + 3

    return make


@pytest.fixture
def spectrum(normal):
    """``spectrum(items, N, D, values)``: centred tokens whose singular values are given, up to a factor."""

    def make(items, n, d, values, seed=0):
        rank = len(values)
        patterns = normal(items, n, rank, seed=seed)
        left = torch.linalg.qr((patterns - patterns.mean(1, keepdim=True)).double()).Q
        right = torch.linalg.qr(normal(items, d, rank, seed=seed + 1).double()).Q
        return (left * torch.tensor(values, dtype=torch.float64) @ right.mT).float()

    return make


def signed(axes):
    """The entry of largest magnitude is positive."""
    return axes * torch.where(axes.gather(1, axes.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)


def check(x, count=3, atol=1e-4):
    """Axes and projections are scikit-learn's within ``atol`` of their length and largest entry; so are variances."""
    projected, axes, variances = principal_components(x, count)
    for i, item in enumerate(x.double()):
        pca = PCA(count, svd_solver='full').fit(item.numpy())
        theirs = signed(torch.from_numpy(pca.components_))
        torch.testing.assert_close(axes[i].double(), theirs, atol=atol, rtol=0)
        expected = (item - torch.from_numpy(pca.mean_)) @ theirs.mT
        scale = expected.abs().amax(0)
        torch.testing.assert_close(projected[i].double() / scale, expected / scale, atol=atol, rtol=0)
        torch.testing.assert_close(variances[i].double(), torch.from_numpy(pca.explained_variance_), atol=0, rtol=1e-5)


@pytest.mark.parametrize('shape', [(40, 12), (20, 20), (12, 40)], ids=['D<N', 'D=N', 'D>N'])
@pytest.mark.parametrize('count', [1, 3])
def test_few_patches_or_features(normal, shape, count):
    x = normal(2, 3, *shape) * torch.linspace(0.5, 3, shape[1]) + 5
    projected, axes, variances = principal_components(x, count)
    assert (projected.shape, axes.shape, variances.shape) == (
        (2, 3, shape[0], count),
        (2, 3, count, shape[1]),
        (2, 3, count),
    )
    check(x.flatten(0, 1), count)


def by_feature(x):
    """The same numbers in the order in which a map ``(D, h, w)`` has them."""
    return x.mT.contiguous().mT


LAYOUTS = [torch.clone, by_feature]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('n', 'd'), [(300, 160), (160, 300)])
@pytest.mark.parametrize('count', [1, 3, 6])
def test_quick_way(tokens, exact_calls, n, d, count, layout):
    x = tokens(4, n, d, [40.0, 32.0, 25.0, 19.0, 15.0, 12.0])
    check(layout(x), count)
    assert exact_calls == [], 'the quick way was not taken'


def test_groups_that_fit_the_memory_are_put_together_again(tokens, exact_calls, monkeypatch):
    x = tokens(5, 300, 160, [40.0, 25.0, 15.0])
    whole = principal_components(x, 3)
    seen, leading = [], principal._leading
    monkeypatch.setattr(principal, '_TOGETHER', 2 * 300 * 160 * 4 // torch.get_num_threads())
    monkeypatch.setattr(principal, '_leading', lambda x, count: seen.append(len(x)) or leading(x, count))
    for ours, theirs in zip(principal_components(x, 3), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-5)
    assert seen == [2, 2, 1]
    check(x)


@pytest.fixture
def clip(tokens, normal):
    """``clip(changes)``: a row of items, each the one before plus so much noise; the directions turn slowly."""

    def make(changes):
        last, row = tokens(1, 300, 160, [40.0, 25.0, 15.0])[0], []
        for k, change in enumerate([0.0, *changes]):
            last = last + change * normal(300, 160, seed=100 + k) * last.std()
            row.append(last)
        return torch.stack(row)

    return make


@pytest.fixture
def searched(monkeypatch):
    """How many items were searched from nothing, call by call."""
    seen, sketched = [], principal._sketched
    monkeypatch.setattr(principal, '_sketched', lambda x, rows: seen.append(len(x)) or sketched(x, rows))
    return seen


@pytest.mark.parametrize(('length', 'few'), [(3, 1), (5, 1), (6, 2), (9, 2), (10, 2), (11, 3), (13, 3)])
def test_of_items_in_a_row_that_are_alike_few_are_searched_from_nothing(clip, searched, exact_calls, length, few):
    x = clip([0.02] * (length - 1))
    check(x)
    assert searched == [few]
    assert exact_calls == []


@pytest.mark.parametrize('length', [1, 3, 5, 6, 10, 11, 53])
def test_directions_between_items(normal, length):
    """Spaces that turn evenly, in a basis that is arbitrary in each, are found to second order of the angle."""
    frame = torch.linalg.qr(normal(40, 16, seed=1).double()).Q.T
    angles = 0.02 * torch.arange(length).double()[:, None, None]
    spaces = torch.cos(angles) * frame[:8] + torch.sin(angles) * frame[8:]  # by 8 angles that are all the same
    first = (length - 1) % 5 // 2
    few = spaces[first::5]
    few = torch.linalg.qr(normal(len(few), 8, 8).double()).Q @ few
    found = torch.linalg.qr(principal._between(few, length).mT).Q.mT
    off = (spaces - spaces @ found.mT @ found).norm(dim=2).amax(1)
    last = first + 5 * (len(few) - 1)
    assert off[first : last + 1].max() < 0.1**2 / 4, 'the angle between neighbours in few is 0.1'
    assert off.max() < 0.02 * 2 + 1e-6, 'at the ends the nearest is taken'


@pytest.mark.parametrize('length', [1, 2])
def test_a_row_too_short_to_be_alike(clip, searched, length):
    check(clip([0.0] * (length - 1)))
    assert searched == [length]


def test_items_in_a_row_that_differ(tokens, searched):
    check(tokens(6, 300, 160, [40.0, 25.0, 15.0]))
    assert searched == [6]


@pytest.mark.parametrize('at', [1, 4, 5])
def test_a_cut_in_a_clip(clip, tokens, searched, exact_calls, at):
    """The items after the cut have other directions; to some of them the search begins in those before it."""
    before, other = clip([0.01] * 80), tokens(1, 300, 160, [40.0, 25.0, 15.0], seed=50)
    x = torch.cat([before[: 40 + at], before[40 + at :] - before[40 + at] + other])
    check(x)
    assert searched == [17]
    assert exact_calls == []


@pytest.mark.parametrize('at', [3, 14, 20])
@pytest.mark.parametrize('patches', [slice(None), slice(20, 21)], ids=['everywhere', 'one patch'])
@pytest.mark.parametrize('rest', [0.3, 1.0, 3.0])
@pytest.mark.parametrize('strength', [25.0, 13.0], ids=['strongest', 'third'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_what_is_new_and_orthogonal_is_found(normal, exact_calls, at, patches, rest, strength, layout):
    """From frame ``at`` on a component has opposite weights in two halves that are the same otherwise."""
    pattern = normal(45, 150, seed=1)
    pattern = torch.cat([pattern, pattern], 1)
    pattern -= pattern.mean(1, keepdim=True)
    half = torch.zeros(150)
    half[patches] = normal(150, seed=2)[patches]
    other = torch.cat([half, -half]) * (150 / half.square().sum()) ** 0.5
    directions = torch.linalg.qr(normal(160, 46, seed=3)).Q.T
    strengths = torch.tensor([20.0, 15, 12, 9, 6] + [rest] * 40)
    before = (strengths[:, None] * pattern).T @ directions[:45]
    x = torch.stack([before] * at + [before + strength * other[:, None] * directions[45]] * (30 - at))
    check(layout(x))
    assert exact_calls == []


#: Singular values of the rest; how much stronger than the next one the strongest ones are.
TAILS = {'steep': [0.7**k for k in range(120)], 'slow': [(k + 1.0) ** -0.5 for k in range(120)]}


@pytest.mark.parametrize('near', [0.3, 0.03, 3e-3, 3e-4, 1e-5])
@pytest.mark.parametrize('pair', [(0, 1), (1, 2), (2, 3)], ids=str)
@pytest.mark.parametrize('tail', TAILS)
def test_nearly_equal_eigenvalues(spectrum, tail, pair, near):
    """Two singular values differ by a factor of 1 + near, the rest of the first four by 1.3 at least."""
    values = [3.0, 2.2, 1.6, 1.2]
    values[pair[1]] = values[pair[0]] / (1 + near)
    for k in range(pair[1] + 1, 4):
        values[k] = values[k - 1] / 1.3
    x = spectrum(2, 300, 160, values + [values[3] / 1.3 * t for t in TAILS[tail]]) + 0.01
    # what float32 input itself leaves open of axes so near each other
    check(x, atol=max(1e-4, 1e-6 / near))


def test_one_item_alone_takes_the_exact_way(tokens, spectrum, exact_calls):
    """The second and third direction are equally strong in one item of three."""
    clear, even = tokens(2, 300, 160, [20.0, 12.0, 8.0]), spectrum(1, 300, 160, [20.0, 9.0, 9.0, *[0.5] * 20])
    x = torch.cat([clear[:1], even, clear[1:]])
    _, axes, variances = principal_components(x, 3)
    assert exact_calls == [1]
    pca = PCA(3, svd_solver='full').fit(x[1].double().numpy())
    span = axes[1].double() @ torch.from_numpy(pca.components_).mT
    torch.testing.assert_close(span.square().sum(1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(variances[1].double(), torch.from_numpy(pca.explained_variance_), atol=0, rtol=1e-5)
    check(x[[0, 2]])


def half_twice(normal):
    """A picture whose lower half is its upper one, with channels that are never active."""
    half = normal(150, 160).abs()
    half[:, :16] = 0
    return torch.cat([half, half])


def test_arrangement_of_a_picture_does_not_matter(normal):
    check(half_twice(normal)[None], atol=2e-4)


@pytest.mark.parametrize('place', [0, 5, 7])
def test_black_frame_of_a_clip_changes_no_other(normal, place):
    x = half_twice(normal).expand(11, -1, -1).clone()
    x[place] = 0
    found = principal_components(x, 3)[2]
    expected = principal_components(half_twice(normal), 3)[2]
    others = torch.arange(11) != place
    torch.testing.assert_close(found[others], expected.expand(10, -1), atol=0, rtol=1e-3)
    assert not found[place].any()


def test_features_that_are_hardly_ever_active(normal):
    """torch.linalg.eigh gives up on two in a hundred of these on some CPUs."""
    x = torch.zeros(100, 320, 240)
    for i, item in enumerate(x):
        item[:, torch.from_numpy(np.random.default_rng(i).permutation(240)[: 3 + i // 3])] = normal(
            320, 3 + i // 3, seed=i
        )
    projected, axes = principal._exact(x, 3)
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).expand(100, 3, 3), atol=1e-5, rtol=0)
    found = projected.double().square().sum(-1)
    expected = torch.linalg.svdvals((x - x.mean(1, keepdim=True)).double())[:, :3].square()
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize('n', [40, 300], ids=['exact', 'quick'])
def test_where_torch_gives_up_numpy_goes_on(tokens, monkeypatch, n):
    def gives_up(matrices):
        raise torch.linalg.LinAlgError('failed to converge')

    x = tokens(2, n, 160, [40.0, 25.0, 15.0])
    monkeypatch.setattr(torch.linalg, 'eigh', gives_up)
    check(x)


def test_noise_without_any_direction(normal, exact_calls):
    x = normal(2, 300, 160)
    check(x, atol=2e-4)
    assert sum(exact_calls) == 2


@pytest.mark.parametrize('rank', [3, 5, 14, 30])
def test_features_of_low_rank(spectrum, rank):
    check(spectrum(2, 300, 160, [2.0**-k for k in range(3)] + [0.1] * (rank - 3)))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_large_mean_does_not_matter(tokens, exact_calls, layout):
    x = layout(tokens(2, 300, 160, [20.0, 12.0, 8.0]))
    plain, shifted = principal_components(x, 3), principal_components(x + 1000, 3)
    for ours, theirs in zip(shifted[:2], plain[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    torch.testing.assert_close(shifted[2], plain[2], atol=0, rtol=1e-4)
    assert exact_calls == []


@pytest.mark.parametrize('scale', [2.0**-40, 2.0**30, 2.0**40])
def test_scale_does_not_matter(tokens, scale):
    """Powers of two round nothing. Of the largest, products of products are beyond float32."""
    x = tokens(6, 300, 160, [20.0, 12.0, 8.0])
    plain, scaled = principal_components(x, 3), principal_components(x * scale, 3)
    torch.testing.assert_close(scaled[0] / scale, plain[0], atol=5e-3, rtol=0)
    torch.testing.assert_close(scaled[1], plain[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled[2] / scale**2, plain[2], atol=0, rtol=1e-4)


@pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize('shape', [(1, 16, 4), (1, 4, 16), (1, 300, 160), (12, 300, 160)], ids=str)
@pytest.mark.parametrize('place', [0, 1234, -1])
@pytest.mark.parametrize('drift', [0.0, 1.0])
def test_one_number_that_is_not_finite(normal, value, shape, place, drift):
    x = normal(*shape[1:]) + drift * normal(*shape)
    flat = x.view(-1)
    flat[place % len(flat)] = value
    with pytest.raises(FloatingPointError, match='a token is not finite, or its square is not'):
        principal_components(x, 3)


def test_by_hand():
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    projected, axes, variances = principal_components(x, 2)
    torch.testing.assert_close(variances, torch.tensor([6.0, 2 / 3]))
    torch.testing.assert_close(axes, torch.eye(2))
    torch.testing.assert_close(projected, x)


def test_largest_axis_entry_is_positive(normal):
    tokens = normal(5, 30, 8)
    for x in (tokens, -tokens):
        axes = principal_components(x, 3)[1]
        assert (axes.gather(-1, axes.abs().argmax(-1, keepdim=True)) > 0).all()


@pytest.mark.parametrize('value', [0.0, 0.3, -700.1])
@pytest.mark.parametrize('shape', [(16, 4), (4, 16), (300, 160)], ids=str)
def test_constant_item_is_all_zero(tokens, exact_calls, shape, value):
    x = torch.cat([tokens(1, *shape, [20.0, 12.0, 8.0]), torch.full((1, *shape), value)])
    projected, axes, variances = principal_components(x, 3)
    assert axes.isfinite().all()
    assert not projected[1].any()
    assert not variances[1].any()
    assert variances[0].min() > 0
    assert exact_calls == ([1] if shape == (300, 160) else [2])


@pytest.mark.parametrize('count', [0, 5])
def test_too_many_components(count):
    with pytest.raises(ValueError, match='principal components of 4 patches with 9 features'):
        principal_components(torch.zeros(4, 9), count)


def test_no_items():
    projected, axes, variances = principal_components(torch.zeros(0, 300, 160), 3)
    assert (projected.shape, axes.shape, variances.shape) == ((0, 300, 3), (0, 3, 160), (0, 3))
