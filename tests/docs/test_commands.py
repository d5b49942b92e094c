"""Commands and files in the pages that are marked to be run do run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, name

RUN = {name(page): page for page in PAGES if any(block.mark == 'run' for block in blocks(page))}


def test_there_are_pages_with_commands_to_run():
    assert {'README.md', 'docs/extend.md', 'docs/quick-start.md'} <= set(RUN)


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN)
def test_marked_commands_run(page, tmp_path):
    """In a folder with the project's tools, a copy of its configs, and the files that the page shows."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    modules = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    for block in blocks(RUN[page]):
        if block.mark.startswith('file: '):
            file = tmp_path / block.mark.removeprefix('file: ')
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code)
        elif block.mark == 'run':
            done = subprocess.run(
                ['bash', '-euo', 'pipefail', '-c', block.code],
                cwd=tmp_path,
                env={**os.environ, 'PATH': paths, 'PYTHONPATH': modules, 'OMP_NUM_THREADS': '1'},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, f'{block.code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
