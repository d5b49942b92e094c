from pathlib import Path

import pytest

from vipo.datasets.pairs import read_pairs
from vipo.registry import ConfigError

FILES = [Path('x/b.png'), Path('x/a.png')]


def prompts(pairs):
    return [(path.name, record['prompt']) for path, record in pairs]


@pytest.fixture
def table(tmp_path):
    def write(text, name='table.csv'):
        (tmp_path / name).write_text(text, encoding='utf-8')
        return [str(tmp_path / name)]

    return write


def test_texts():
    assert prompts(read_pairs(FILES, ['a cat'])) == [('b.png', 'a cat'), ('a.png', 'a cat')]
    assert prompts(read_pairs(FILES, ['a cat', 'a dog'])) == [('b.png', 'a cat'), ('a.png', 'a dog')]
    first, second = (record for _, record in read_pairs(FILES, ['a cat']))
    assert first is not second


def test_lines(table):
    assert prompts(read_pairs(FILES, table('a cat\na dog\n', 'p.txt'))) == [('b.png', 'a cat'), ('a.png', 'a dog')]
    assert prompts(read_pairs(FILES, table('a cat\n', 'p.txt'))) == [('b.png', 'a cat'), ('a.png', 'a cat')]
    pairs = read_pairs(FILES, table('{"prompt": "a cat", "fps": 8}\n{"prompt": "a dog"}\n', 'p.jsonl'))
    assert [record for _, record in pairs] == [{'prompt': 'a cat', 'fps': 8}, {'prompt': 'a dog'}]
    assert prompts(read_pairs(FILES, table('prompt\n"a cat, red"\na dog\n')))[0] == ('b.png', 'a cat, red')


@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_table_that_names_its_files(tmp_path, table, kind):
    (tmp_path / 'x').mkdir()
    files = [tmp_path / 'x' / name for name in ('b.png', 'a.png')]
    for file in files:
        file.touch()
    rows = {
        'csv': f'path,prompt,seed\nx/a.png,a cat,1\n{files[0]},a dog,2\n',
        'jsonl': f'{{"path": "x/a.png", "prompt": "a cat", "seed": "1"}}\n'
        f'{{"path": "{files[0]}", "prompt": "a dog", "seed": "2"}}\n',
    }
    given = table(rows[kind], f'table.{kind}')
    pairs = read_pairs(files, given)
    assert prompts(pairs) == [('b.png', 'a dog'), ('a.png', 'a cat')]
    assert [record['seed'] for _, record in pairs] == ['2', '1']
    assert prompts(read_pairs([], given)) == [('a.png', 'a cat'), ('b.png', 'a dog')]
    assert prompts(read_pairs(files[1:], given)) == [('a.png', 'a cat')]
    with pytest.raises(ConfigError, match=r'names no prompt for .*c\.png'):
        read_pairs([tmp_path / 'x' / 'c.png'], given)
    files[1].unlink()
    with pytest.raises(ConfigError, match=r'a\.png.* does not exist'):
        read_pairs([], given)


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['a', 'b', 'c'], '2 files but 3 prompts'),
        ('a\nb\nc\n', r'2 files but 3 prompts in .*table\.txt'),
        (['nowhere.txt'], 'nowhere.txt.* does not exist'),
        (['nowhere.csv'], 'nowhere.csv cannot be read'),
    ],
)
def test_numbers_that_differ_and_files_that_are_missing(table, given, words):
    with pytest.raises(ConfigError, match=words):
        read_pairs(FILES, table(given, 'table.txt') if isinstance(given, str) else given)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'column prompt'),
        ('text\na cat\n', 'column prompt'),
        ('prompt\n', 'at least one row'),
        ('prompt,seed\na cat\n', 'row 1 has another number of columns'),
        ('prompt,seed\na cat,1\na dog,2,3\n', 'row 2 has another number of columns'),
        ('prompt\na cat\n""\n', 'prompt of row 2 is empty'),
        ('prompt\n"a cat\n', 'cannot be read as CSV'),
        ('path,prompt\nx/a.png,a cat\nx/../x/a.png,a dog\n', 'twice'),
        ('path,prompt\n,a cat\n', 'prompt 1 has no path'),
    ],
)
def test_table_that_cannot_be_used(table, text, words):
    with pytest.raises(ConfigError, match=words):
        read_pairs(FILES, table(text))


def test_no_files_at_all(table):
    with pytest.raises(ConfigError, match='no files are given'):
        read_pairs([], ['a cat'])
    with pytest.raises(ConfigError, match='no files are given'):
        read_pairs([], table('a cat\n', 'p.txt'))
