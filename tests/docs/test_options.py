"""The pages about configs name every section and every option that there is."""

import re

import pytest

from tests.docs.pages import DOCS
from tools.draw_concepts import picture
from tools.list_options import markdown, options_of, page, sections
from vipo.engine.config import KNOWN_KEYS

PAGE = (DOCS / 'options.md').read_text()
PARTS = [(key, target) for key, targets in sections() for target in targets]


def test_page_of_options_is_what_the_tool_writes():
    assert page() == PAGE, 'run python tools/list_options.py'


@pytest.mark.parametrize(('key', 'target'), PARTS, ids=lambda x: getattr(x, '__name__', x))
def test_every_option_is_described(key, target):
    """Without the tool's own way of finding the place: in the section of the part, or of one that it links to."""
    own = section_of(target.__name__)
    linked = [section_of(name) for name in re.findall(r'\[(\w+)\]\(#\w+\)', own)]
    lines = [re.split(r'(?<!\\)\|', line) for line in '\n'.join([own, *linked]).splitlines() if line.startswith('| `')]
    rows = {cells[1].strip(' `'): cells[4].strip() for cells in lines}
    assert set(options_of(target)) <= set(rows)
    assert all(len(rows[name]) > 5 for name in options_of(target))


def section_of(name):
    """The text under a part's heading."""
    return re.search(rf'^### {name}\n(.*?)(?=^##|\Z)', PAGE, re.MULTILINE | re.DOTALL)[1]


def test_every_top_level_section_is_explained():
    headings = re.findall(r'^### `(\w+)`$', (DOCS / 'configs.md').read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(KNOWN_KEYS)


def test_docstring_markup_becomes_markdown():
    assert markdown(':class:`~vipo.rewards.base.Reward` and ``a | b``') == r'`Reward` and `a \| b`'


def test_picture_is_what_the_tool_draws():
    assert picture() == (DOCS / 'images' / 'data_way.svg').read_text(), 'run python tools/draw_concepts.py'
