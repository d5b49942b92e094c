"""Prompts that a run will ask for are encoded before it begins, and no others."""

import re

import pytest
from safetensors import safe_open

from tests.engine.conftest import ROOT, run, small_config
from tests.engine.test_distributed import launch
from vipo.engine import clock as clocks
from vipo.engine.runner import build_runner
from vipo.generators import SD3Generator

EVALUATED = 6


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / 'prompts.txt'
    path.write_text(''.join(f'a small red circle number {i}\n' for i in range(40)))
    return str(path)


@pytest.fixture
def encoded(monkeypatch):
    """The texts of every call of a text encoder, and where the call came from."""
    calls = []
    encode = SD3Generator.encode_texts
    monkeypatch.setattr(
        SD3Generator, 'encode_texts', lambda self, texts: calls.append(list(texts)) or encode(self, texts)
    )
    return calls


def cached(tmp_path, prompts, name='run', **options):
    options = {'generator__prompt_cache': str(tmp_path / 'cache'), **options}
    return small_config(tmp_path / name, train_dataloader__dataset__file=prompts, **options)


def stored(folder):
    texts = []
    for path in folder.rglob('*.safetensors'):
        with safe_open(path, 'pt') as file:
            texts.append(file.metadata()['text'])
    return texts


@pytest.mark.slow
def test_only_what_will_be_dealt_is_encoded(tmp_path, prompts, encoded, monkeypatch):
    """Two iterations of two prompts out of 40, and six of the evaluation; a longer run encodes what is new."""
    asked = []
    encode = SD3Generator.encode
    monkeypatch.setattr(SD3Generator, 'encode', lambda self, texts: asked.extend(texts) or encode(self, texts))
    run(cached(tmp_path, prompts))
    texts = stored(tmp_path / 'cache')
    assert len(texts) == len(set(texts)) == 4 + EVALUATED
    assert set(texts) == set(asked)
    assert [len(call) for call in encoded] == [8, 2], 'together, and nothing within the iterations'

    encoded.clear()
    cfg = cached(tmp_path, prompts, train_cfg__max_iters=5, generator__encode_batch=4)
    cfg.resume = True
    again = build_runner(cfg)
    again.train()
    assert again.iter == 5
    assert [len(call) for call in encoded] == [4, 2], 'three more iterations of two prompts'
    assert not {text for call in encoded for text in call} & set(texts)


def test_without_shuffling_by_hand(tmp_path, prompts):
    run(
        cached(
            tmp_path, prompts, train_dataloader__sampler={'type': 'PromptSampler', 'shuffle': False}, evaluation=None
        )
    )
    assert sorted(stored(tmp_path / 'cache')) == [f'a small red circle number {i}' for i in range(4)]


def test_sampler_that_cannot_tell_has_all_of_them_encoded(tmp_path, prompts):
    sampler = {'type': 'InfiniteSampler', 'shuffle': True, 'seed': 0}
    runner = run(cached(tmp_path, prompts, train_dataloader__sampler=sampler, evaluation=None))
    assert len(stored(tmp_path / 'cache')) == 40
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert 'InfiniteSampler cannot say what it will deal: all prompts are encoded' in log
    assert runner.iter == 2


def test_progress_has_phase_count_and_time_left(tmp_path, prompts, monkeypatch, capsys):
    monkeypatch.setattr(clocks, '_LONG', 0.0)
    runner = build_runner(cached(tmp_path, prompts, generator__encode_batch=4, evaluation=None, train_cfg__max_iters=4))
    runner.clock._quiet = 0.0
    capsys.readouterr()
    runner.train_loop.encode_ahead()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == 'encode prompts ahead 0/8'
    assert re.fullmatch(r'encode prompts ahead 4/8, 0:00:\d\d left', said[1])
    assert said[2] == 'encode prompts ahead 8/8'
    assert runner.clock.times['encode prompts ahead'] > 0


@pytest.mark.slow
def test_ranks_divide_what_is_missing(tmp_path, prompts):
    (tmp_path / 'counting.py').write_text(
        'from mmengine.dist import get_rank\n'
        'from vipo.generators import SD3Generator\n'
        'class Counting(SD3Generator):\n'
        '    def encode_texts(self, texts):\n'
        f'        with open("{tmp_path}/rank" + str(get_rank()), "a") as file:\n'
        '            file.writelines(t + "\\n" for t in texts)\n'
        '        return super().encode_texts(texts)\n'
    )
    config = tmp_path / 'mine.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\n"
        f"generator = dict(type='counting.Counting', prompt_cache='{tmp_path}/cache')\n"
        f"train_dataloader = dict(dataset=dict(file='{prompts}'))\n"
    )
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'))
    assert code == 0, said[-3000:]
    shares = [(tmp_path / f'rank{r}').read_text().splitlines() for r in (0, 1)]
    assert [len(share) for share in shares] == [5, 5], '4 prompts of training and 6 of evaluation'
    assert sorted(shares[0] + shares[1]) == sorted(stored(tmp_path / 'cache'))
