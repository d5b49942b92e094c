"""The vocabularies of the embedded models: every scene word is one token, and a second making gives the same ids."""

from transformers import CLIPTokenizer

from tools.tiny.tokenizers import _merges, clip_tokenizer, t5_tokenizer
from vipo.assets import resolve
from vipo.scenes.grammar import words


def test_merges_by_hand():
    """'at' occurs twice and goes first; then 'bat' before 'cat'."""
    assert _merges(['cat', 'bat']) == [('a', 't</w>'), ('b', 'at</w>'), ('c', 'at</w>')]


def test_second_making_is_equal():
    assert clip_tokenizer(18).get_vocab() == clip_tokenizer(18).get_vocab()
    assert t5_tokenizer(16).get_vocab() == t5_tokenizer(16).get_vocab()


def test_shipped_tokenizers_know_every_word():
    for place in ('vipo://tiny-hps', 'vipo://tiny-sd3'):
        folder = resolve(place) + ('/tokenizer' if place.endswith('sd3') else '')
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        assert all(len(tokenizer(word).input_ids) == 3 for word in words())
