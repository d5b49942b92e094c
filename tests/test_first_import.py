"""yapf's half-written cache: processes that meet it wait for the writer, or say what to do."""

import os
import subprocess
import sys
import time

import pytest


@pytest.fixture
def cached(tmp_path):
    """A cache folder of our own, and the grammars in it, cut off as a writer that is not done leaves them."""
    env = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path)}
    subprocess.run([sys.executable, '-c', 'import yapf'], env=env, check=True)
    whole = {path: path.read_bytes() for path in tmp_path.rglob('*.pickle')}
    assert len(whole) == 2
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2 if 'Pattern' in path.name else 0])
    return env, whole


def start(env):
    lines = 'import vipo, mmengine'
    return subprocess.Popen([sys.executable, '-c', lines], env=env, stderr=subprocess.PIPE, text=True)


def test_half_written_cache_is_read_again(cached):
    env, whole = cached
    process = start(env)
    time.sleep(0.4)
    assert process.poll() is None, 'it met nothing that was half written'
    for path, content in whole.items():
        path.write_bytes(content)
    assert process.wait(30) == 0, process.stderr.read()


def test_damaged_cache_is_named(cached):
    process = start(cached[0])
    assert process.wait(30) == 1
    assert 'remove the folder YAPF' in process.stderr.read()
