import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vipo.rewards import PickScoreReward

PROMPTS = ['a small red circle', 'a large blue square above a ring', 'Blue  ring', 'a red circle at the left ' * 9]


@pytest.fixture(scope='module')
def options(twin_options):
    return twin_options(PickScoreReward)


@pytest.mark.parametrize('size', [(28, 28), (28, 31), (35, 28), (85, 61), (14, 21), (101, 28)])
def test_score_is_the_logit_of_transformers(options, their_clip, pictures, size):
    """With a prompt that is cut at 77 tokens, and pictures whose margins are odd."""
    x = pictures(*size)
    theirs = their_clip(x, PROMPTS).logits_per_image.diagonal()
    scores = PickScoreReward(**options)(x[:, :, None], PROMPTS).scores
    assert theirs.abs().max() > 10
    # Logits are a hundred cosines.
    torch.testing.assert_close(scores, theirs, atol=1e-4, rtol=1e-5)


def test_scale_divides(options, pictures):
    x = pictures()[:, :, None]
    raw, scaled = (PickScoreReward(**options, **more)(x, PROMPTS).scores for more in ({}, {'scale': 26.0}))
    torch.testing.assert_close(scaled * 26, raw)
    with pytest.raises(ValueError, match=r'reward\.scale'):
        PickScoreReward(**options, scale=0.0)


def test_logit_scale_keeps_its_digits_in_half_precision(options, pictures):
    """exp(4.6052) is 100.00; of bfloat16's nearest number it is 98.9."""
    reward = PickScoreReward(**options, dtype='bfloat16')
    x = pictures()
    factor = reward(x[:, :, None], PROMPTS).scores / reward.towers.cosine(x, PROMPTS)
    assert factor.tolist() == pytest.approx([100.0] * 4, rel=1e-4)


def test_old_checkpoints_load(options, pictures, tmp_path):
    """They carry position ids, and an end token in their config that is not the tokenizer's."""
    shutil.copytree(options['pretrained'], tmp_path / 'old')
    path = tmp_path / 'old' / 'model.safetensors'
    state = load_file(path)
    state['text_model.embeddings.position_ids'] = torch.arange(77)[None]
    state['vision_model.embeddings.position_ids'] = torch.arange(17)[None]
    path.unlink()
    torch.save(state, path.with_name('pytorch_model.bin'))
    config = json.loads((tmp_path / 'old' / 'config.json').read_text())
    config['text_config']['eos_token_id'] = 2
    (tmp_path / 'old' / 'config.json').write_text(json.dumps(config))
    x = pictures()[:, :, None]
    old = PickScoreReward(pretrained=str(tmp_path / 'old'))
    torch.testing.assert_close(old(x, PROMPTS).scores, PickScoreReward(**options)(x, PROMPTS).scores)


def test_checkpoint_in_half_precision_loads(options, pictures, tmp_path):
    shutil.copytree(options['pretrained'], tmp_path / 'half')
    path = tmp_path / 'half' / 'model.safetensors'
    state = {k: v.half() for k, v in load_file(path).items()}
    save_file(state, path)
    reward = PickScoreReward(pretrained=str(tmp_path / 'half'))
    assert {p.dtype for p in reward.towers.model.parameters()} == {torch.float32}
    x = pictures()[:, :, None]
    close = (reward(x, PROMPTS).scores - PickScoreReward(**options)(x, PROMPTS).scores).abs().max()
    assert 0 < close < 0.5
