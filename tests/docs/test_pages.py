"""Links lead somewhere, names exist, messages are those of the source, and settings are those of the configs."""

import functools
import importlib
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name, prose, words
from tools.list_options import options_of, sections
from tools.studies.variants import VARIANTS
from tools.study_maps import strategies
from vipo.engine.config import KNOWN_KEYS, read_config

by_page = pytest.mark.parametrize('page', PAGES, ids=name)


def anchors(page):
    """Anchors of the headings, as GitHub and MkDocs both make them."""
    found = []
    for title in re.findall(r'^#+ (.*)$', prose(page), re.MULTILINE):
        text = unicodedata.normalize('NFKD', re.sub(r'\[([^]]*)\]\([^)]*\)|`', r'\1', title)).lower()
        found.append(re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', text).strip()))
    return found


@by_page
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        if target.startswith(('http://', 'https://')):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert DOCS not in page.parents or DOCS in file.parents, f'{target} leads out of the site'
        assert not anchor or anchor in anchors(file), f'{target}: {anchors(file)}'


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r': ([\w/-]+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES if DOCS in page.parents}


#: Files of users in examples, and what runs write.
THEIRS = ('configs/my_', 'configs/mine', 'configs/NAME')


@by_page
def test_files_exist(page):
    text = page.read_text()
    for path in re.findall(r'(?<![\w/.-])((?:configs|docs|tests|tools|vipo)/[\w./*-]*[\w/*])', text):
        if not path.startswith(THEIRS):
            assert list(ROOT.glob(path.rstrip('/'))), path


@by_page
def test_dotted_names_exist(page):
    for word in words(page):
        if re.fullmatch(r'vipo(\.\w+)+', word):
            assert find(word) is not None, word


def find(dotted):
    """What a dotted name leads to, through modules and classes."""
    parts = dotted.split('.')
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module('.'.join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[count:], found)
    return None


@by_page
def test_named_tests_exist(page):
    source = all_tests()
    for word in words(page):
        if re.fullmatch(r'test_\w+', word):
            assert f'def {word}(' in source, word


@functools.cache
def all_tests():
    return '\n'.join(path.read_text() for path in (ROOT / 'tests').rglob('*.py'))


@functools.cache
def known_segments():
    """Every option of every part, and every key of the shipped configs."""
    names = {option for _, targets in sections() for target in targets for option in options_of(target)}

    def walk(value):
        if isinstance(value, dict):
            for key, part in value.items():
                names.add(key)
                walk(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                walk(part)

    for path in (ROOT / 'configs').rglob('*.py'):
        walk(read_config(path, imports=False)._cfg_dict.to_dict())
    return names | KNOWN_KEYS | {'early_stop', 'best'}


@by_page
def test_config_keys_exist(page):
    for word in words(page):
        key = re.match(r'((?:\w+)(?:\.\w+)+)(?= ?=|$)', word)
        if key is None or key[1].split('.')[0] not in KNOWN_KEYS:
            continue
        for segment in key[1].split('.')[1:]:
            assert segment in known_segments() or segment.isdigit() or segment.isupper(), word


@by_page
def test_flags_of_tools_exist(page):
    for block in blocks(page):
        for tool, rest in re.findall(r'tools/(\w+)\.py([^#\n|&]*)', block.code.replace('\\\n', ' ')):
            source = (ROOT / 'tools' / f'{tool}.py').read_text()
            source += ''.join(path.read_text() for path in (ROOT / 'tools' / 'benchmarks').glob('*.py'))
            source += (ROOT / 'vipo' / 'engine' / 'testing.py').read_text() if tool == 'test' else ''
            for flag in re.findall(r'(?<=\s)--[a-z-]+', rest):
                assert f"'{flag}'" in source, f'tools/{tool}.py has no {flag}'


def test_settings_of_the_paper_page_are_those_of_the_configs():
    lines = prose(DOCS / 'paper.md').partition('## ViPO: the settings')[2].partition('\n## ')[0].splitlines()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if line.startswith('|')]
    configs = [read_config(ROOT / cell.strip('`')) for cell in next(row[1:] for row in rows if row[0] == 'config')]
    compared = 0
    for row in rows:
        for cfg, cell in zip(configs, row[1:], strict=True):
            for key, value in re.findall(r'`([\w.]+) = ([^`]+)`', cell):
                found = functools.reduce(lambda part, segment: part[segment], key.split('.'), cfg)
                assert repr(found.to_dict() if hasattr(found, 'to_dict') else found) == value, key
                compared += 1
    assert compared > 25


@pytest.mark.parametrize('name', ['vipo_flux_hps', 'vipo_wan_videoalign'])
def test_configs_of_the_paper_take_every_way_back(name):
    """Whatever the page says of a way back is what sets the config of the paper apart, and nothing else is."""
    ours, papers = (dict(settings(read_config(ROOT / f'configs/{name}{end}.py'))) for end in ('', '_paper'))
    table = prose(DOCS / 'paper.md').partition('## What differs')[2].partition('\n## ')[0]
    rows = [row.strip('|').split('|') for row in table.splitlines() if row.startswith('|')]
    ways = [re.fullmatch(r'`([\w.]+)=(\S+)`', cells[3].strip()) for cells in rows]
    expected = {way[1]: way[2] for way in ways if way}
    assert {'structurer.normalize', 'ema'} <= set(expected)
    changed = {key for key in ours.keys() | papers.keys() if ours.get(key) != papers.get(key)}
    assert {key.removesuffix('.decay') for key in changed} == set(expected)
    assert all(str(papers[key]) == value for key, value in expected.items())


def settings(section, before=''):
    """Every key of a config with its value."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from settings(value, f'{before}{key}.')
        else:
            yield f'{before}{key}', value


def test_counts_of_the_readme_are_those_of_the_code():
    command = [sys.executable, 'tools/list_components.py']
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    parts = {part.split('\n')[0]: part.count('\n  ') for part in listed.strip().split('\n\n')}
    text = ' '.join(prose(ROOT / 'README.md').split())
    assert f'{parts["reward"]} and {parts["backbone"]} today' in text
    assert f'trains {len(VARIANTS)} variants' in text
    assert len(strategies()) == 20
    assert 'compares twenty map strategies' in text


MESSAGES = [
    (block.mark.removeprefix('message: '), block.code.strip())
    for block in blocks(DOCS / 'troubleshooting.md')
    if block.mark.startswith('message: ')
]


@pytest.mark.parametrize(('source', 'message'), MESSAGES)
def test_quoted_messages_are_those_of_the_source(source, message):
    text = re.sub(r'[\'"]\s*\n\s*f?[\'"]', '', (ROOT / source).read_text())
    for fragment in message.split('...'):
        assert fragment.strip() in text, fragment


def test_messages_are_found():
    assert len(MESSAGES) >= 10


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip('mkdocs', reason="the extra docs is not installed: pip install -e '.[docs]'")
    pytest.importorskip('mkdocstrings')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / 'site' / 'api' / 'losses.html').read_text()
    assert 'clipped_policy_loss' in page and ':class:' not in page
    assert not [line for line in page.splitlines() if re.search(r'(src|href)="(https?:)?//[^"]*\.(js|css)', line)]


def test_pages_have_no_paths_of_a_machine():
    for page in PAGES:
        assert not re.search(r'/(?:root|home|work|tmp/x)/', page.read_text()), name(page)
    assert Path(DOCS / 'images' / 'data_way.svg').exists()
