import json

import pytest

from vipo.datasets import PromptDataset, read_prompts
from vipo.registry import DATASETS, ConfigError


@pytest.fixture
def file(tmp_path):
    """``file(content, name='prompts.txt')`` writes bytes or text and gives the path."""

    def write(content, name='prompts.txt'):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def prompts(path):
    return [record['prompt'] for record in read_prompts(path)]


@pytest.mark.parametrize(
    'content',
    ['a cat\na dog\n', 'a cat\na dog', 'a cat\r\na dog\r\n', '\ufeffa cat\na dog\n', '  a cat \n\ta dog\n'],
    ids=['unix', 'no last newline', 'windows', 'byte order mark', 'spaces'],
)
def test_one_prompt_a_line(file, content):
    assert prompts(file(content)) == ['a cat', 'a dog']


def test_other_languages_and_unusual_characters(file):
    """U+2028 and U+0085 end a line for Python's splitlines, but not for the writer of the file."""
    lines = ['ein Käfer', '一只猫', 'one\u2028line', 'next\x85line', 'form\x0cfeed']
    assert prompts(file('\n'.join(lines))) == lines


def test_jsonl_keeps_what_else_a_reward_wants(file):
    records = [{'prompt': ' a cat ', 'count': 2}, {'prompt': 'one\u2028line', 'tag': None}]
    content = '\n'.join(json.dumps(r, ensure_ascii=False) for r in records)
    assert read_prompts(file('\ufeff' + content, 'p.jsonl')) == [{'prompt': 'a cat', 'count': 2}, records[1]]


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt' does not exist"):
        read_prompts(str(tmp_path / 'none.txt'))
    with pytest.raises(ConfigError, match='does not exist'):
        read_prompts(str(tmp_path))


@pytest.mark.parametrize('content', ['', '\ufeff'])
@pytest.mark.parametrize('name', ['p.txt', 'p.jsonl'])
def test_empty_file(file, content, name):
    with pytest.raises(ConfigError, match='is empty'):
        read_prompts(file(content, name))


@pytest.mark.parametrize(
    ('content', 'line'), [('a\n\nb\n', 2), ('a\nb\n  \t\n', 3), ('\na\n', 1), ('a\nb\n\n', 3), ('a\r\n\r\nb', 2)]
)
def test_empty_prompt_names_its_line(file, content, line):
    with pytest.raises(ConfigError, match=rf'prompts\.txt, line {line}: the prompt is empty'):
        read_prompts(file(content))


@pytest.mark.parametrize(
    ('content', 'line', 'byte'),
    [
        (b'a cat\na dog\nK\xe4fer\n', 3, 'e4'),
        (b'\xef\xbb\xbfa cat\nK\xe4fer\n', 2, 'e4'),
        ('a cat\n'.encode('utf-16'), 1, 'ff'),
    ],
    ids=['latin-1', 'byte order mark', 'utf-16'],
)
def test_bad_encoding_names_line_and_byte(file, content, line, byte):
    with pytest.raises(ConfigError, match=f'is not UTF-8: line {line} holds the byte 0x{byte}'):
        read_prompts(file(content))


@pytest.mark.parametrize(
    ('second', 'match'),
    [
        ('{"prompt": "x"', 'not JSON'),
        ('', 'not JSON'),
        ('["x"]', 'needs an object'),
        ('"x"', 'needs an object'),
        ('{"text": "x"}', 'needs an object with a text under "prompt"'),
        ('{"prompt": 3}', 'needs an object with a text under "prompt"'),
        ('{"prompt": " "}', 'the prompt is empty'),
    ],
)
def test_bad_json_names_its_line(file, second, match):
    with pytest.raises(ConfigError, match=rf'p\.jsonl, line 2: {match}'):
        read_prompts(file('{"prompt": "a"}\n' + second + '\n', 'p.jsonl'))


def test_dataset(file):
    dataset = DATASETS.build({'type': 'PromptDataset', 'file': file('{"prompt": "a", "n": 1}\n' * 3, 'p.jsonl')})
    assert len(dataset) == 3
    assert dataset[2] == {'prompt': 'a', 'prompt_id': 2, 'metadata': {'prompt': 'a', 'n': 1}}


def test_limit(file):
    path = file('a\nb\nc\n')
    assert [item['prompt'] for item in (PromptDataset(path, limit=2)[i] for i in range(2))] == ['a', 'b']
    assert len(PromptDataset(path, limit=2)) == 2
    assert len(PromptDataset(path, limit=9)) == 3


def test_embedded_prompts_are_scenes():
    from vipo.scenes.grammar import parse_prompt

    train, evaluation = (prompts(f'vipo://prompts/scenes_{name}.txt') for name in ('train', 'eval'))
    assert len(evaluation) >= 100
    assert not set(train) & set(evaluation)
    assert all(parse_prompt(p).prompt == p for p in (*train[:200], *evaluation))
