"""A reward of several parts in the loop: what is logged, and whose advantages are summed."""

import numpy as np
import pytest

from tests.engine.conftest import history, run
from vipo.engine.loop import PolicyLoop

PARTS = {
    'hps': {'reward': {'type': 'HPSReward', 'checkpoint': 'vipo://tiny-hps'}, 'weight': 2.0},
    'red': {'reward': {'type': 'FunctionReward', 'function': f'{__name__}.redness'}, 'weight': 1.0, 'std': 0.001},
}


def redness(pixels, prompts, metadata):
    """100 times more scattered than the other part, once divided by its std."""
    return (pixels[:, 0] - pixels[:, 1]).mean((1, 2, 3))


@pytest.mark.parametrize('combine', ['rewards', 'advantages'])
def test_advantages_of_parts(cfg, monkeypatch, combine):
    seen = []
    collect = PolicyLoop.collect
    monkeypatch.setattr(PolicyLoop, 'collect', lambda self, batch: seen.append(collect(self, batch)) or seen[-1])
    config = cfg(train_cfg__max_iters=1, advantage__combine=combine, advantage__eps=0.0, evaluation=None)
    config.reward = {'type': 'WeightedReward', 'parts': PARTS}
    runner = run(config)

    (samples,) = seen
    parts = {k: v.double().numpy().reshape(2, 4) for k, v in samples.reward.parts.items()}

    def normed(x):
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)

    if combine == 'rewards':
        expected = normed(2 * parts['hps'] + parts['red'])
    else:
        expected = 2 * normed(parts['hps']) + normed(parts['red'])
    ours = samples.advantage.double().numpy().reshape(2, 4)
    np.testing.assert_allclose(ours, expected.clip(-5, 5), atol=2e-3)
    # the two ways differ here, so that the comparison above means something
    assert np.abs(normed(2 * parts['hps'] + parts['red']) - 2 * normed(parts['hps']) - normed(parts['red'])).max() > 0.1
    (record,) = history(runner)
    assert record['reward/red'] == pytest.approx(parts['red'].mean(), rel=1e-3)
    assert record['reward/hps'] == pytest.approx(parts['hps'].mean(), rel=1e-3)
