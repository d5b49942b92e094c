"""Tokenizers of the real classes that need no download: any text falls apart into letters or bytes."""

from __future__ import annotations

import string

from transformers import BertTokenizer, CLIPTokenizer, LlamaTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

_CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair tokenizer without merges, 77 tokens long; padding is the end token, as in CLIP."""
    alphabet = list(bytes_to_unicode().values())
    tokens = [*alphabet, *(c + '</w>' for c in alphabet), '<|startoftext|>', '<|endoftext|>']
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def bert_tokenizer() -> BertTokenizer:
    """Word pieces of one letter, lower case."""
    letters = [c for c in _CHARACTERS if c not in string.ascii_uppercase]
    tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters, *(f'##{c}' for c in letters)]
    return BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, model_max_length=512)


def t5_tokenizer() -> T5Tokenizer:
    """Unigram tokenizer of characters; the class serves T5 and UMT5."""
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -2.0), *((c, -3.0) for c in _CHARACTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def llama_tokenizer() -> LlamaTokenizer:
    """Byte-pair tokenizer without merges and with bytes to fall back on, padded on the right."""
    tokens = ['<unk>', '<s>', '</s>', '<pad>', *(f'<0x{i:02X}>' for i in range(256)), '▁', *_CHARACTERS]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    return LlamaTokenizer(vocab=vocabulary, merges=[], pad_token='<pad>', padding_side='right', model_max_length=256)
