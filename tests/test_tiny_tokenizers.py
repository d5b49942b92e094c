"""The vocabularies of the embedded models: every scene word is one token, and a second making gives the same ids."""

import json
import os
import subprocess
import sys

from transformers import CLIPTokenizer

from tests.engine.conftest import ROOT
from tools.tiny.tokenizers import _merges
from vipo.assets import resolve
from vipo.scenes.grammar import words


def test_merges_by_hand():
    """'at' occurs twice and goes first; then 'bat' before 'cat'."""
    assert _merges(['cat', 'bat']) == [('a', 't</w>'), ('b', 'at</w>'), ('c', 'at</w>')]


def test_making_does_not_depend_on_the_process():
    """Strings hash differently in every process, so an order that comes from a set would differ."""
    script = (
        'import json; from tools.tiny.tokenizers import clip_tokenizer, t5_tokenizer; '
        'print(json.dumps([clip_tokenizer(18).get_vocab(), t5_tokenizer(16).get_vocab()]))'
    )
    made = [
        json.loads(
            subprocess.run(
                [sys.executable, '-c', script],
                cwd=ROOT,
                env={**os.environ, 'PYTHONHASHSEED': seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
        )
        for seed in ('1', '2')
    ]
    assert made[0] == made[1]


def test_shipped_tokenizers_know_every_word():
    for place in ('vipo://tiny-hps', 'vipo://tiny-sd3'):
        folder = resolve(place) + ('/tokenizer' if place.endswith('sd3') else '')
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        assert all(len(tokenizer(word).input_ids) == 3 for word in words())
