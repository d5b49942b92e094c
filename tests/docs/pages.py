"""The pages as the tests read them: code blocks, marks, links, words in backticks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / 'docs'
#: Every page that a reader meets.
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(DOCS.rglob('*.md'))]
_BLOCK = re.compile(
    r'^(?:<!-- (?P<mark>[^>]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$', re.MULTILINE | re.DOTALL
)


@dataclass
class Block:
    """A code block.

    Attributes:
        mark: the comment in the line above it: ``file: PATH`` for what is written there, ``run`` for commands that a
            test runs in a folder with these files.
    """

    mark: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    return [Block(m['mark'] or '', m['language'], m['code']) for m in _BLOCK.finditer(page.read_text())]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub('', page.read_text())


def words(page: Path) -> list[str]:
    """What stands in backticks outside of code blocks."""
    return re.findall(r'`([^`\n]+)`', prose(page))


def name(page: Path) -> str:
    """A page's name in a report."""
    return str(page.relative_to(ROOT))
