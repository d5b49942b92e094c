import numpy as np
import pytest
import torch

from vipo.advantages import combined_advantages, group_advantages

NAN = float('nan')


def advantages(rewards, group, valid=None, eps=0.0, **options):
    out = group_advantages(
        torch.tensor(rewards),
        torch.tensor(group),
        None if valid is None else torch.tensor(valid),
        eps=eps,
        **options,
    )
    assert out.dtype == torch.float32
    return out.tolist()


def test_by_hand():
    assert advantages([1.0, 3.0, 10.0, 40.0], [0, 0, 1, 1]) == pytest.approx([-1, 1, -1, 1])
    root = 1.5**0.5
    assert advantages([1.0, 2.0, 3.0], [7, 7, 7]) == pytest.approx([-root, 0, root])
    assert advantages([1.0, 2.0, 3.0], [7, 7, 7], ddof=1) == pytest.approx([-1, 0, 1])


def test_eps_is_added_to_the_std():
    assert advantages([1.0, 3.0], [0, 0], eps=1.0) == pytest.approx([-0.5, 0.5])


def test_scale_none_only_centres():
    assert advantages([1.0, 5.0, 2.0, 2.0], [0, 0, 1, 1], scale='none', eps=1e-4) == pytest.approx([-2, 2, 0, 0])


@pytest.mark.parametrize('ddof', [0, 1])
def test_scale_global_divides_by_one_std_of_the_centred_rewards(ddof):
    std = np.std([-1, 1, -5, 5], ddof=ddof)
    assert advantages([1.0, 3.0, 10.0, 20.0], [0, 0, 1, 1], scale='global', ddof=ddof) == pytest.approx(
        [-1 / std, 1 / std, -5 / std, 5 / std]
    )


def test_clip():
    raw = advantages([0.0, 0.0, 0.0, 9.0], [0] * 4)
    assert raw[3] == pytest.approx(3**0.5)
    assert advantages([0.0, 0.0, 0.0, 9.0], [0] * 4, clip=1.5) == pytest.approx([*raw[:3], 1.5])
    assert advantages([0.0, 0.0, 0.0, -9.0], [0] * 4, clip=1.5) == pytest.approx([*(-r for r in raw[:3]), -1.5])


def test_interleaved_groups_keep_their_places():
    rewards, group = [1.0, 10.0, 3.0, 40.0, 5.0], [9, -4, 9, -4, 9]
    root = 1.5**0.5
    assert advantages(rewards, group) == pytest.approx([-root, -1, 0, 1, root])


def test_ids_beyond_32_bits_are_kept_apart():
    assert advantages([1.0, 3.0, 10.0, 40.0], [2**40, 2**40, 2**40 + 2**32, 2**40 + 2**32]) == pytest.approx(
        [-1, 1, -1, 1]
    )


@pytest.mark.parametrize('scale', ['group', 'global', 'none'])
@pytest.mark.parametrize('ddof', [0, 1])
def test_invalid_sample_leaves_the_others_as_if_it_were_not_there(scale, ddof):
    rewards, group = [1.0, 100.0, 2.0, 5.0, 3.0, 4.0], [0, 0, 0, 1, 0, 1]
    got = advantages(rewards, group, [True, False, True, True, True, True], eps=1e-4, scale=scale, ddof=ddof)
    without = advantages([1.0, 2.0, 5.0, 3.0, 4.0], [0, 0, 1, 0, 1], eps=1e-4, scale=scale, ddof=ddof)
    assert got[1] == 0
    assert [a for i, a in enumerate(got) if i != 1] == pytest.approx(without)


@pytest.mark.parametrize('failed', [NAN, float('inf')])
def test_reward_that_is_not_finite_is_invalid_without_a_mask(failed):
    assert advantages([1.0, failed, 3.0], [0, 0, 0]) == pytest.approx([-1, 0, 1])
    assert advantages([1.0, failed, 3.0], [0, 0, 0], [True, True, True]) == pytest.approx([-1, 0, 1])


@pytest.mark.parametrize('scale', ['group', 'global', 'none'])
def test_nothing_is_relative_in_a_group_of_fewer_than_two(scale):
    assert advantages([5.0], [0], eps=1e-4, scale=scale) == [0]
    assert advantages([5.0, 7.0, NAN, NAN], [0, 0, 1, 1], [True, False, True, True], eps=1e-4, scale=scale) == [0] * 4


def test_group_of_one_does_not_change_the_global_std():
    got = advantages([1.0, 3.0, 50.0], [0, 0, 1], scale='global')
    assert got == pytest.approx([-1, 1, 0])


@pytest.mark.parametrize('scale', ['group', 'global'])
@pytest.mark.parametrize('eps', [0.0, 1e-4])
def test_equal_rewards_give_no_advantage(scale, eps):
    """0.1 cannot be represented: the mean of equal rewards may miss them by one rounding."""
    assert advantages([0.1] * 7, [0] * 7, eps=eps, scale=scale) == pytest.approx([0] * 7, abs=1e-6)


def test_empty_batch():
    assert group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_errors():
    rewards, group = torch.zeros(4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match='int64'):
        group_advantages(rewards, group.int())
    with pytest.raises(ValueError, match='int64'):
        group_advantages(rewards, group.float())
    with pytest.raises(ValueError, match='scale'):
        group_advantages(rewards, group, scale='batch')
    with pytest.raises(ValueError, match='equally many'):
        group_advantages(rewards, group[:3])
    with pytest.raises(ValueError, match='equally many'):
        group_advantages(rewards.reshape(2, 2), group.reshape(2, 2))


def combined(combine, parts, weights, valid=None, **options):
    parts = {name: torch.tensor(values) for name, values in parts.items()}
    rewards = sum(weights[name] * values for name, values in parts.items())
    group = torch.zeros(len(rewards), dtype=torch.int64)
    options = {'eps': 0.0, **options}
    valid = None if valid is None else torch.tensor(valid)
    return combined_advantages(rewards, group, valid, parts=parts, weights=weights, combine=combine, **options).tolist()


def test_sum_of_advantages_by_hand():
    """Two parts that disagree: in the sum of rewards the larger one wins, in the sum of advantages neither does."""
    parts = {'small': [0.0, 1.0], 'large': [100.0, 0.0]}
    equal = {'small': 1.0, 'large': 1.0}
    assert combined('rewards', parts, equal) == pytest.approx([1, -1])
    assert combined('advantages', parts, equal) == pytest.approx([0, 0])
    assert combined('advantages', parts, {'small': 3.0, 'large': 1.0}) == pytest.approx([-2, 2])


def test_sum_of_advantages_of_the_paper():
    """VQ + MQ: each normalised in its group, then added."""
    vq, mq = [1.0, 2.0, 6.0], [0.5, 0.1, 0.3]
    expected = [(a - np.mean(vq)) / np.std(vq) + (b - np.mean(mq)) / np.std(mq) for a, b in zip(vq, mq, strict=True)]
    assert combined('advantages', {'VQ': vq, 'MQ': mq}, {'VQ': 1.0, 'MQ': 1.0}) == pytest.approx(expected)


def test_sum_of_advantages_is_clipped_as_a_whole_and_masked():
    parts, weights = {'a': [0.0, 1.0, 7.0], 'b': [0.0, 2.0, 7.0]}, {'a': 1.0, 'b': 1.0}
    valid = [True, True, False]
    assert combined('advantages', parts, weights, valid) == pytest.approx([-2, 2, 0])
    assert combined('advantages', parts, weights, valid, clip=1.5) == pytest.approx([-1.5, 1.5, 0])


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'combine': 'sum'}, r"must be one of \('rewards', 'advantages'\)"),
        ({'combine': 'advantages'}, 'weighted sum of parts'),
        ({'combine': 'advantages', 'weights': {}}, 'weighted sum of parts'),
    ],
)
def test_sums_that_cannot_be_had(options, match):
    with pytest.raises(ValueError, match=match):
        combined_advantages(torch.zeros(2), torch.zeros(2, dtype=torch.int64), **options)


def test_map_on_the_reward_by_hand():
    """Each position has its own reward r M(p), mean and std: a position that all maps call dark learns nothing."""
    rewards, group = torch.tensor([1.0, 3.0]), torch.zeros(2, dtype=torch.int64)
    maps = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.5]]).reshape(2, 1, 1, 1, 3)
    out = combined_advantages(rewards, group, maps=maps, map_on='reward', eps=0.0)
    assert out.shape == (2, 1, 1, 3)
    # products: 1 and 3; 0 and 0; 2 and 1.5
    assert out.flatten(1).tolist() == [pytest.approx([-1, 0, 1]), pytest.approx([1, 0, -1])]


def test_equal_maps_on_the_reward_change_nothing_where_they_are_not_zero():
    rewards, group = torch.tensor([1.0, 3.0, 8.0, -2.0]), torch.tensor([0, 0, 1, 1])
    maps = torch.tensor([0.5, 4.0]).reshape(1, 1, 1, 1, 2).expand(4, -1, -1, -1, -1)
    valid = torch.tensor([True, True, True, False])
    whole = combined_advantages(rewards, group, valid, eps=0.0)
    each = combined_advantages(rewards, group, valid, maps=maps, map_on='reward', eps=0.0)
    torch.testing.assert_close(each, whole[:, None, None, None].expand(4, 1, 1, 2))


def test_map_on_the_reward_of_each_part():
    group, maps = torch.zeros(2, dtype=torch.int64), torch.tensor([[1.0, 2.0], [1.0, 1.0]]).reshape(2, 1, 1, 1, 2)
    parts, weights = {'a': torch.tensor([0.0, 1.0]), 'b': torch.tensor([3.0, 4.0])}, {'a': 1.0, 'b': 2.0}
    options = {'parts': parts, 'weights': weights, 'combine': 'advantages', 'eps': 0.0}
    out = combined_advantages(torch.zeros(2), group, maps=maps, map_on='reward', **options)
    # a M: 0, 0 and 1, 1; b M: 3, 6 and 4, 4
    assert out.flatten(1).tolist() == [pytest.approx([-3, 1]), pytest.approx([3, -1])]


def test_map_that_is_not_there():
    two = torch.zeros(2)
    with pytest.raises(ValueError, match='set a structurer'):
        combined_advantages(two, two.long(), map_on='reward')
    with pytest.raises(ValueError, match='map_on must be one of'):
        combined_advantages(two, two.long(), map_on='score')
