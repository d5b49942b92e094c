"""Every variant of the study is a config that can be trained."""

import pytest

from tools.studies.jobs import Job, plan
from tools.studies.variants import SECTIONS, VARIANTS, find
from vipo.engine.components import build_batch_plan, check_generator
from vipo.engine.config import unknown_keys
from vipo.registry import LOSSES, STRUCTURERS
from vipo.registry.lookup import check_sections

BY_NAME = {variant.name: variant for variant in VARIANTS}


def config(name, tmp_path, extra=None):
    return Job(BY_NAME[name], 100, tmp_path, extra or {}).config()


@pytest.mark.parametrize('name', BY_NAME)
def test_variant_builds(name, tmp_path):
    cfg = config(name, tmp_path)
    assert not unknown_keys(cfg)
    check_sections(cfg)
    check_generator(cfg)
    assert build_batch_plan(cfg).total == 72
    loss = LOSSES.build(cfg.loss, at='loss')
    assert (loss.mode == 'scalar') == (cfg.structurer is None)
    if cfg.structurer is not None:
        STRUCTURERS.build(cfg.structurer, at='structurer')
    assert {'judge', 'pick'} <= set(cfg.eval_rewards)
    assert config(name, tmp_path).to_dict() == cfg.to_dict(), 'every seed gets the same'


def test_variants_differ_from_their_base_where_they_say(tmp_path):
    """And in nothing else: no two are the same, and all cost the same."""
    texts, costs = {}, set()
    for name in BY_NAME:
        cfg = config(name, tmp_path)
        texts.setdefault(cfg.pretty_text, []).append(name)
        optimizer = cfg.optim_wrapper.optimizer
        rate = optimizer.pop('lr')
        assert rate == pytest.approx({'half': 1e-5, 'x2': 4e-5, 'x4': 8e-5}.get(name.split('_lr_')[-1], 2e-5))
        costs.add(str((cfg.train_cfg, cfg.batch, optimizer, cfg.ema, cfg.evaluation, cfg.rollout.num_steps)))
    assert len(costs) == 1
    assert [names for names in texts.values() if len(names) > 1] == []
    tower = config('vipo_reward_tower', tmp_path).structurer
    assert dict(tower.backbone) == {'type': 'RewardTowerBackbone'}
    assert tower.allocator.orientation == 'center'
    assert config('oracle_random', tmp_path).structurer.where == 'random'
    red = config('red_grpo', tmp_path)
    assert (dict(red.reward), red.structurer) == ({'type': 'RednessReward'}, None)
    assert set(red.eval_rewards) == {'judge', 'pick', 'hps'}
    fit = config('fit_background', tmp_path)
    assert (dict(fit.reward), fit.structurer.where) == ({'type': 'SceneFitReward'}, 'background')
    assert set(fit.eval_rewards) == {'judge', 'pick', 'hps'}
    assert config('fit_places', tmp_path).structurer.where == 'places'


def test_find():
    assert [v.section for v in find(['d'], False)] == ['d'] * 3
    assert [v.name for v in find(['oracle', 'vipo'], False)] == ['vipo', 'oracle']
    assert {v.section for v in find(None, False)} == set(SECTIONS)
    assert {v.name for v in find(None, True)} == {'grpo', 'uniform', 'vipo', 'red_grpo', 'red_vipo', 'oracle'}
    with pytest.raises(ValueError, match='no variant or section vip; known: a, b'):
        find(['vip'], False)


def test_seeds_are_the_outer_loop(tmp_path):
    jobs = plan(find(['e'], False), [0, 3], tmp_path, False)
    assert [(job.seed, job.variant.name) for job in jobs][2:4] == [(0, 'oracle_random'), (3, 'oracle')]
    assert len({job.folder for job in jobs}) == 6
    assert not any(job.done for job in jobs)
