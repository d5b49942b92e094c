"""Bad input ends in a clear message, early, and with an exit code."""

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL, history, run
from tools.train import load_config, main, parse_args
from vipo.engine.config import unknown_keys
from vipo.engine.scoring import RewardFailure
from vipo.registry import REWARDS
from vipo.rewards.base import Reward, RewardOutput


def train(capsys, tmp_path, *options, name='vipo_tiny_sd3'):
    """Exit code and messages of ``tools/train.py`` with the given ``--cfg-options``."""
    small = [f'{k}={v}' for k, v in SMALL.items()]
    arguments = [str(ROOT / 'configs' / f'{name}.py'), '--work-dir', str(tmp_path / 'run')]
    code = main([*arguments, '--cfg-options', *small, *options])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'words'),
    [
        ('train_dataloader.dataset.file=nowhere.txt', ["'nowhere.txt' does not exist"]),
        ('evaluation.prompts=nowhere.txt', ["'nowhere.txt' does not exist"]),
        ('batch.group_size=1', ['batch.group_size is 1', 'at least 2']),
        ('batch.micro_batch_size=0', ['batch.micro_batch_size must be at least 1']),
        ('batch.updates_per_iteration=3', ['batch.updates_per_iteration=3']),
        ('batch.grop_size=4', ["'grop_size'", "Did you mean 'group_size'"]),
        ('generator.resolution=60', ['generator.resolution 60x60', 'multiples of 8', '64x64']),
        ('generator.resolution=512', ['generator.resolution 512', 'larger than']),
        ('generator.pretrained=vipo://tiny-sd4', ['vipo://tiny-sd4', 'vipo://tiny-sd3']),
        ('generator.lora.targets=[attn.to_z]', ["'attn.to_z' matches no linear layer", 'attn.to_q']),
        ('reward.type=HSPReward', ["config key 'reward'", "Did you mean 'HPSReward'"]),
        ('reward.wieght=2', ["config key 'reward'", "'wieght'", 'HPSReward(']),
        ('reward.checkpoint=/nowhere/x.pt', ['/nowhere/x.pt', 'does not exist']),
        ('structurer.allocator.orientation=up', ['allocator.orientation', "'center'"]),
        ('structurer.allocator.sigmo=1', ["config key 'structurer.allocator'", "Did you mean 'sigma'"]),
        ('rollout.kernel.eta=-1', ['eta must be finite and not negative']),
        ('rollout.kernel.eta=0', ['rollout.kernel.eta is 0']),
        ('strategy.type=FSDP', ["config key 'strategy'", "'FSDP2'"]),
        ('strategy=FSDP2', ["config key 'strategy'", "dict(type='FSDP2')"]),
        ('rollout.num_steps=1', ['rollout.num_steps']),
        ('rollout.selector.size=9', ['window of 9 steps']),
        ('loss.clip_range=0', ['loss.clip_range must be positive']),
        ('loss.mode=scalar', ["loss.mode='scalar'", 'structurer=None']),
        ('ema.decay=2', ['ema.decay']),
        ('ema.deacy=0.5', ["config key 'ema'", "Did you mean 'decay'"]),
        ('generator.lora.rnak=4', ["config key 'generator.lora'", "Did you mean 'rank'"]),
        ('generator.lora.rank=0', ['generator.lora.rank must be at least 1']),
        ('train_dataloader.batch_size=1', ['batch.prompts_per_iteration']),
        ('train_dataloader=None', ['needs a section train_dataloader']),
        ('train_dataloader.dataset.fil=x', ["config key 'train_dataloader.dataset'", "Did you mean 'file'"]),
        ('train_dataloader.dataset.type=PromtDataset', ["Did you mean 'PromptDataset'"]),
        ('train_cfg.max_iter=5', ["config key 'train_cfg'", "Did you mean 'max_iters'"]),
        ('train_cfg.type=PolicyLop', ["config key 'train_cfg'", "Did you mean 'PolicyLoop'"]),
        ('train_cfg.max_iters=many', ['train_cfg.max_iters must be int']),
        ('train_cfg.max_iters=0', ['train_cfg.max_iters must be positive']),
        ('default_hooks.checkpoint.intervall=5', ["'default_hooks.checkpoint'", "Did you mean 'interval'"]),
        ('default_hooks.checkpoint.type=PolicyCheckpontHook', ["Did you mean 'PolicyCheckpointHook'"]),
        ('default_hooks.report.gallery=0', ['default_hooks.report.gallery must be at least 1']),
        ('log_processor.windw_size=5', ["config key 'log_processor'", "'window_size'"]),
        ('optim_wrapper.optimizer.lrr=0.1', ["config key 'optim_wrapper.optimizer'", "Did you mean 'lr'"]),
        ('optim_wrapper.optimizer.type=AdmaW', ["Did you mean 'AdamW'"]),
        ('optim_wrapper.clip_grad.max_nrm=1', ["config key 'optim_wrapper.clip_grad'", "Did you mean 'max_norm'"]),
        ('randomness.sead=5', ["config key 'randomness'", "Did you mean 'seed'"]),
        ('randomness.diff_rank_seed=True', ['randomness.diff_rank_seed=True gives every rank other steps']),
        ('randomness.seed=None', ['randomness.seed must be a whole number']),
        ('default_hooks.ema=None', ["add default_hooks.ema=dict(type='EMAHook'), or set ema=None"]),
        ('ema.decay=1.5', ['ema.decay must be in [0, 1)']),
        ('train_cfg.compare_weights_every=-1', ['train_cfg.compare_weights_every must be at least 0']),
        ('optim_wrapper.accumulative_counts=4', ['accumulative_counts=4 has no effect', 'updates_per_iteration']),
        ('log_level=VERBOSE', ['log_level must be one of']),
        ('rollout.kernel.eta=abc', ["rollout.kernel.eta must be float, got 'abc'"]),
        ('rollout.num_steps=6.5', ['rollout.num_steps must be int, got 6.5 (float)']),
        ('rollout.share_initial_noise=yes', ["rollout.share_initial_noise must be bool, got 'yes'"]),
        ('batch.group_size=4.0', ['batch.group_size must be int, got 4.0 (float)']),
        ('structurer.allocator.components=2.5', ['structurer.allocator.components must be int']),
        ('structurer.allocator.components=1000', ['cannot take 1000 principal components']),
        ('evaluation.num_steps=0', ['evaluation.num_steps must be at least 1']),
        ('generator=SD3Generator', ['needs a section generator=dict(...)', "'SD3Generator'"]),
        ('generator.dtype=fp16', ["config key 'generator'", "'fp16'", 'bfloat16']),
        ('generator.resolution=big', ['generator.resolution must be int | tuple[int, int]']),
        ('generator.pretrained=./nowhere', ["config key 'generator'", 'nowhere']),
        ('rollout.selector.type=RandomFraction', ["'size'", '_delete_=True']),
        ('advantage.epss=1', ['config key advantage.epss', "Did you mean 'eps'"]),
        ('advantage.scale=batch', ['scale must be one of']),
        ('advantage.combine=sum', ['combine must be one of']),
        ('advantage.combine=advantages', ['weighted sum of parts', 'HPSReward is none', 'WeightedReward']),
        ('loss.kl_weight=0.1', ['loss.kl_weight needs the reference policy', 'keep_reference']),
        ('load_from=/nowhere.pth', ["'/nowhere.pth' does not exist"]),
        ('batch.group_size.x=2', ['--cfg-options batch.group_size.x', 'has no parts']),
    ],
)
def test_config_mistakes(capsys, tmp_path, option, words):
    code, message = train(capsys, tmp_path, option)
    assert code in (2, 3)
    assert 'error: ' in message
    for word in words:
        assert word in message
    assert 'Traceback' not in message


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'a red ball\n\na blue ball\n', ['line 2', 'empty']),
        (b'a red ball\n\xff\xfe\n', ['not UTF-8', 'line 2']),
        (b'', ['is empty']),
    ],
)
def test_prompt_file_mistakes(capsys, tmp_path, content, words):
    file = tmp_path / 'prompts.txt'
    file.write_bytes(content)
    code, message = train(capsys, tmp_path, f'train_dataloader.dataset.file={file}')
    assert code == 2
    assert all(w in message for w in words)


def test_missing_config_file(capsys):
    assert main(['configs/nothing.py']) == 2
    assert "'configs/nothing.py' does not exist" in capsys.readouterr().err


def test_config_file_that_cannot_be_used(capsys, tmp_path):
    """What is wrong is said in one line, for each thing that MMEngine wraps in a page of its own."""
    for name, text, words in [
        ('base.py', "_base_ = ['nowhere/base.py']", 'relative to the file that names them'),
        ('gone.py', "custom_imports = dict(imports=['module_that_is_gone'])", "No module named 'module_that_is_gone'"),
        ('inner.py', "custom_imports = dict(imports=['my_broken_module'])", "No module named 'what_it_imports'"),
        ('import.py', 'import os\n_base_ = []', 'Import nothing'),
        ('list.py', "custom_imports = ['my_module']", 'custom_imports must be a dict. Write custom_imports=dict('),
        ('file.py', "custom_imports = dict(imports=['my_whole_module.py'])", 'folder.file, without ".py"'),
        ('bases.py', "_base_ = ['one.py', 'two.py']", 'may come from one file of _base_ alone'),
    ]:
        (tmp_path / 'my_whole_module.py').write_text('')
        for half in ('one', 'two'):
            (tmp_path / f'{half}.py').write_text('reward = dict()')
        (tmp_path / 'my_broken_module.py').write_text('import what_it_imports')
        (tmp_path / name).write_text(text)
        assert main([str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    (tmp_path / 'file').touch()
    path = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
    assert main([path, '--work-dir', str(tmp_path / 'file')]) == 2
    assert 'is a file' in capsys.readouterr().err
    assert main([path, '--cfg-options', 'param_scheduler.x.begin=3']) == 2
    assert 'no index of a list' in capsys.readouterr().err


def test_interrupted_run_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    from vipo.engine.loop import PolicyLoop

    def interrupted(self, samples):
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyLoop, 'decode', interrupted)
    code, message = train(capsys, tmp_path, 'evaluation=None')
    assert code == 130
    assert 'stopped in iteration 1; add --resume' in message


def test_backbone_that_returns_a_bare_tensor_is_told_what_to_return(capsys, tmp_path):
    backbone = [
        'structurer.backbone._delete_=True',
        'structurer.backbone.type=tests.engine.test_bad_input.bare_backbone',
    ]
    code, message = train(capsys, tmp_path, 'evaluation=None', *backbone)
    assert code == 3
    assert 'must return Features(map=(N, D, h, w)), got Tensor' in message


def bare_backbone():
    return lambda pixels: pixels


def test_config_with_a_syntax_error(capsys, tmp_path):
    file = tmp_path / 'broken.py'
    file.write_text('reward = dict(\n')
    assert main([str(file)]) == 2
    assert 'cannot be read' in capsys.readouterr().err


def test_unknown_top_level_key_draws_a_warning_with_a_suggestion(cfg):
    config = cfg()
    config.structurrer = 1
    (warning,) = unknown_keys(config)
    assert "'structurrer'" in warning
    assert "'structurer'" in warning
    for name in ('vipo_tiny_sd3', 'grpo_tiny_sd3', 'uniform_tiny_sd3'):
        assert unknown_keys(cfg(name)) == []


def test_command_line_order(capsys):
    path = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
    options = ['--cfg-options', 'randomness.seed=5', 'work_dir=a', 'reward.batch_size=2']
    config = load_config(parse_args([path, *options]))
    assert (config.randomness.seed, config.work_dir, config.reward.batch_size) == (5, 'a', 2)
    config = load_config(parse_args([path, '--seed', '7', '--work-dir', 'b', *options]))
    assert (config.randomness.seed, config.work_dir) == (7, 'b')
    assert load_config(parse_args([path])).work_dir == 'work_dirs/vipo_tiny_sd3'
    config = load_config(parse_args([path, '--resume', 'x.pth', '--seed', '0']))
    assert (config.resume, config.load_from) == (True, 'x.pth')
    assert main([path, '--resume', 'x.pth']) == 2
    assert "checkpoint 'x.pth' does not exist" in capsys.readouterr().err
    config = load_config(parse_args([path, '--resume']))
    assert (config.resume, config.load_from) == (True, None)


class SometimesNaN(Reward):
    """Brightness, but the first sample of each batch of 8 has no score."""

    def __call__(self, pixels, prompts, metadata=None):
        scores = pixels.mean((1, 2, 3, 4))
        if len(scores) == 8:
            scores[0] = float('nan')
        return RewardOutput(scores)


class Picky(Reward):
    """Fails on one prompt."""

    def __call__(self, pixels, prompts, metadata=None):
        for prompt in prompts:
            if 'red' in prompt:
                raise RuntimeError('I do not look at red things')
        return RewardOutput(pixels.mean((1, 2, 3, 4)))


class Blind(Reward):
    """Never has a score while training."""

    def __call__(self, pixels, prompts, metadata=None):
        scores = pixels.mean((1, 2, 3, 4))
        return RewardOutput(scores if len(scores) != 8 else scores * float('nan'))


def test_nan_reward_is_masked_counted_and_reported(cfg):
    runner = run(cfg(reward={'_delete_': True, 'type': 'tests.engine.test_bad_input.SometimesNaN'}))
    rows = history(runner)
    assert rows[0]['reward_invalid'] == pytest.approx(1 / 8)
    assert all(torch.isfinite(p).all() for p in runner.components.policy.parameters())


def test_mostly_invalid_rewards_stop_the_run(capsys, tmp_path):
    code, message = train(capsys, tmp_path, 'reward._delete_=True', 'reward.type=tests.engine.test_bad_input.Blind')
    assert code == 3
    assert '100% of the rewards' in message
    assert 'max_invalid_fraction' in message


def test_raising_reward_stops_naming_sample_prompt_and_reward(cfg):
    config = cfg(
        reward={'_delete_': True, 'type': 'tests.engine.test_bad_input.Picky'}, evaluation=None, train_cfg__max_iters=40
    )
    with pytest.raises(RewardFailure, match=r"reward \(Picky\) failed on sample \d, prompt '.*red.*': RuntimeError"):
        run(config)


OWN = {
    'allocator': """from vipo.registry import ALLOCATORS
from vipo.structurers import Allocator


@ALLOCATORS.register_module()
class ContrastAllocator(Allocator):
    \"\"\"How far the features of a patch are from the mean of its frame.\"\"\"

    def __call__(self, features, cls_attention=None):
        return (features - features.mean((3, 4), keepdim=True)).norm(dim=2)
""",
}


@pytest.mark.parametrize('part', OWN)
def test_own_part_by_decorator_beside_the_config(part, tmp_path, capsys):
    """A file, a decorator, two lines of config; that of the README's backbone is run by tests/docs/test_commands.py."""
    (tmp_path / f'my_{part}_for_test.py').write_text(OWN[part])
    name = OWN[part].partition('class ')[2].partition('(')[0]
    base = ROOT / 'configs' / 'vipo_tiny_sd3.py'
    (tmp_path / 'mine.py').write_text(
        f'_base_ = [{str(base)!r}]\n'
        f"custom_imports = dict(imports=['my_{part}_for_test'])\n"
        f"structurer = dict({part}=dict(_delete_=True, type='{name}'))\n"
    )
    small = [f'{k}={v}' for k, v in SMALL.items()]
    code = main([str(tmp_path / 'mine.py'), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *small])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / 'run' / 'summary.json').exists()


def test_reward_names_are_known_after_import():
    REWARDS.import_from_location()
    assert {'HPSReward', 'SceneJudge'} <= set(REWARDS.module_dict)
