"""Tokenizers of the embedded models: the real classes, with a vocabulary in which every scene word is one token."""

from __future__ import annotations

import string
from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from vipo.scenes.grammar import words


def clip_tokenizer(max_length: int) -> CLIPTokenizer:
    """Byte-pair tokenizer trained on the scene words; any other text falls back to bytes."""
    alphabet = list(bytes_to_unicode().values())
    merges = _merges(words())
    tokens = [*alphabet, *(c + '</w>' for c in alphabet), *(a + b for a, b in merges)]
    tokens = [*dict.fromkeys(tokens), '<|startoftext|>', '<|endoftext|>']
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=max_length)
    _check(tokenizer, extra=2)
    return tokenizer


def _merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one token; of equally frequent pairs the first in the alphabet is merged.

    The trainer of ``tokenizers`` breaks ties by hash order, so that its vocabulary differs from run to run.
    """
    split = [[*word[:-1], word[-1] + '</w>'] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for symbols in split for pair in pairwise(symbols)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols in split:
            i = 0
            while i + 1 < len(symbols):
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = [''.join(best)]
                i += 1
    return merges


def t5_tokenizer(max_length: int) -> T5Tokenizer:
    """Unigram tokenizer over the scene words; any other text falls back to characters."""
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -2.0)]
    pieces += [(c, -6.0) for c in string.ascii_letters + string.digits + string.punctuation]
    pieces += [(f'▁{w}', -1.0) for w in words()]
    seen: dict[str, float] = {}
    for piece, score in pieces:
        seen.setdefault(piece, score)
    tokenizer = T5Tokenizer(vocab=list(seen.items()), extra_ids=0, model_max_length=max_length)
    _check(tokenizer, extra=1)
    return tokenizer


def _check(tokenizer, extra: int) -> None:
    split = [w for w in words() if len(tokenizer(w).input_ids) != 1 + extra]
    if split:
        raise AssertionError(f'these scene words are more than one token: {split}')
