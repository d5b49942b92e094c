"""Encoded prompts on disk: the same as encoded now, and never those of something else."""

import pytest
import torch

from tests.generators.families import FAMILIES, PROMPTS
from vipo.generators.cache import PromptCache, fingerprint
from vipo.generators.twins import save_twin


def test_what_is_written_is_read_by_another_process_of_the_same_identity(tmp_path):
    first, second = (PromptCache(tmp_path, {'length': 16, 'encoder': 'x'}) for _ in range(2))
    assert first.missing(['a', 'b', 'a']) == ['a', 'b']
    first.write('a', {'embeds': torch.ones(3, 2, dtype=torch.bfloat16), 'mask': torch.tensor([1, 0, 0])})
    assert second.missing(['a', 'b', 'a']) == ['b']
    tensors = second.read('a')
    assert tensors['embeds'].dtype == torch.bfloat16
    assert tensors['mask'].tolist() == [1, 0, 0]
    assert not list(tmp_path.rglob('*.partial'))


def test_what_could_not_be_written_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('safetensors.torch.save_file', full)
    with pytest.raises(OSError, match='No space left'):
        PromptCache(tmp_path, {}).write('a', {'embeds': torch.ones(3)})
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]


@pytest.mark.parametrize('other', [{'length': 32, 'encoder': 'x'}, {'length': 16, 'encoder': 'y'}, {'length': 16}])
def test_another_identity_finds_nothing(tmp_path, other):
    PromptCache(tmp_path, {'length': 16, 'encoder': 'x'}).write('a', {'embeds': torch.ones(3)})
    assert PromptCache(tmp_path, other).missing(['a']) == ['a']


def test_damaged_file_is_named(tmp_path):
    cache = PromptCache(tmp_path, {})
    cache.write('a', {'embeds': torch.ones(300)})
    cache.path('a').write_bytes(cache.path('a').read_bytes()[:100])
    with pytest.raises(ValueError, match=r'safetensors is damaged.*remove it'):
        PromptCache(tmp_path, {}).read('a')


def test_fingerprint_sees_weights_and_config(tmp_path):
    (tmp_path / 'encoder').mkdir()
    weights, config = tmp_path / 'encoder' / 'model.safetensors', tmp_path / 'encoder' / 'config.json'
    weights.write_bytes(bytes(3 * 2**20))
    config.write_text('{}')
    (tmp_path / 'transformer').mkdir()
    first = fingerprint(tmp_path, ['encoder'])
    (tmp_path / 'transformer' / 'x').write_text('changes nothing')
    assert fingerprint(tmp_path, ['encoder']) == first
    config.write_text('{"a": 1}')
    second = fingerprint(tmp_path, ['encoder'])
    weights.write_bytes(bytes(3 * 2**20 - 1) + b'1')
    assert len({first, second, fingerprint(tmp_path, ['encoder'])}) == 3


@pytest.mark.parametrize('name', FAMILIES)
def test_conditioning_from_the_cache_is_that_of_the_encoders(name, twin_folder, tmp_path):
    family = FAMILIES[name]
    plain = family.build(twin_folder(family.twin), **family.guided)
    cached = family.build(twin_folder(family.twin), **family.guided, prompt_cache=str(tmp_path))
    encoders = [n for n in family.adapter.text_encoders if getattr(plain.pipe, n) is not None]
    assert all(getattr(cached.pipe, n) is None for n in encoders), 'nothing is loaded before it is needed'
    cached.encode_ahead(cached.unencoded(PROMPTS))
    assert all(getattr(cached.pipe, n) is None for n in encoders), 'the encoders have left memory'
    again = family.build(twin_folder(family.twin), **family.guided, prompt_cache=str(tmp_path))
    again.load_text_encoders = None  # would raise
    for generator in (cached, again):
        for prompts in (PROMPTS, PROMPTS[1:], [*PROMPTS, PROMPTS[0]]):
            ours, theirs = generator.encode(prompts).tensors, plain.encode(prompts).tensors
            assert ours.keys() == theirs.keys()
            for key in ours:
                torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', FAMILIES)
def test_texts_are_encoded_together_as_alone(name, twin_folder):
    """Empty, short, and longer than the 16 tokens there are: none sees the others, masks included."""
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin))
    texts = ['', 'a', 'two dogs', 'a red cat on a mat beside the door', 'x' * 40]
    with torch.no_grad():
        together = generator.encode_texts(texts)
        alone = [generator.encode_texts([text]) for text in texts]
    for key, values in together.items():
        torch.testing.assert_close(values, torch.cat([one[key] for one in alone]), atol=1e-6, rtol=0)
        assert (values[1].float() - values[3].float()).abs().max() > 1e-3, 'texts that are all the same show nothing'
    if name == 'hunyuan_video':
        assert together['mask'].sum(1).unique().numel() > 2


def test_batches_of_encoding(twin_folder, tmp_path):
    """Seven texts and the negative one in threes; what is stored is not encoded again."""
    family = FAMILIES['flux']
    folder = str(tmp_path / 'cache')
    generator = family.build(twin_folder('flux'), **family.guided, prompt_cache=folder, encode_batch=3)
    generator.encode_ahead(['text 0'])
    texts, sizes, done = [f'text {i}' for i in range(8)], [], []
    missing = generator.unencoded([*texts, *texts])
    assert missing == [*texts[1:], '']
    encode = generator.encode_texts
    generator.encode_texts = lambda part: sizes.append(len(part)) or encode(part)
    generator.encode_ahead(missing, done.append)
    assert sizes == done == [3, 3, 2]
    assert generator.unencoded(texts) == []
    with pytest.raises(ValueError, match=r'generator\.encode_batch must be at least 1'):
        family.build(twin_folder('flux'), encode_batch=0)


def test_prompt_that_was_not_encoded_ahead_brings_the_encoders_back(twin_folder, tmp_path):
    generator = FAMILIES['flux'].build(twin_folder('flux'), prompt_cache=str(tmp_path))
    generator.encode_ahead(PROMPTS)
    plain = FAMILIES['flux'].build(twin_folder('flux'))
    ours, theirs = generator.encode(['a third']).tensors, plain.encode(['a third']).tensors
    torch.testing.assert_close(ours['embeds'], theirs['embeds'], atol=1e-5, rtol=0)
    assert generator.pipe.text_encoder is None


def test_another_length_or_encoder_is_not_reused(twin_folder, tmp_path):
    family = FAMILIES['flux']
    family.build(twin_folder('flux'), prompt_cache=str(tmp_path / 'cache')).encode_ahead(PROMPTS)
    count = len(list((tmp_path / 'cache').rglob('*.safetensors')))
    assert count == 2
    longer = family.adapter(
        twin_folder('flux'), max_sequence_length=24, prompt_cache=str(tmp_path / 'cache'), resolution=32
    )
    assert longer.encode(PROMPTS).tensors['embeds'].shape[1] == 24
    other = family.build(save_twin('flux', tmp_path / 'other', seed=5), prompt_cache=str(tmp_path / 'cache'))
    same = family.build(twin_folder('flux'), prompt_cache=str(tmp_path / 'cache'))
    assert not torch.allclose(other.encode(PROMPTS).tensors['embeds'], same.encode(PROMPTS).tensors['embeds'])
    assert len(list((tmp_path / 'cache').rglob('*.safetensors'))) == 6


def test_memory_does_not_grow_with_the_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr('vipo.generators.cache._KEPT', 3)
    cache = PromptCache(tmp_path, {})
    for i in range(8):
        cache.write(str(i), {'embeds': torch.full((2,), float(i))})
        cache.read(str(i))
    assert list(cache._known) == ['5', '6', '7']
    assert cache.read('0')['embeds'].tolist() == [0, 0]
