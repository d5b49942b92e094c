"""``tools/serve_reward.py`` and the example server as a user starts them: processes of their own."""

import ast
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.ports import free_port
from tools import serve_reward as tool
from vipo.rewards import HPSReward, RemoteReward
from vipo.rewards.http_client import ServiceError
from vipo.rewards.wire import quantise, to_pixels

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / 'docs' / 'examples' / 'old_package_server.py'
TINY = ['HPSReward', '--cfg-options', 'reward.checkpoint=vipo://tiny-hps']


class Process:
    """A server's process, once it has said where it serves."""

    def __init__(self, *command, **environment):
        paths = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**os.environ, 'PYTHONPATH': paths, **environment},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if 'serving' in line:
                break
        assert self.lines, 'it ended'
        self.url = next(word for word in self.lines[-1].replace(';', ' ').split() if word.startswith('http://'))

    def stop(self, number=signal.SIGINT):
        """The rest of what it says, and its exit code."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=30)
        return rest, self.process.returncode


@contextlib.contextmanager
def started(*command, **environment):
    server = Process(*command, **environment)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture
def pictures(normal):
    return lambda count=3, frames=1: normal(count, 3, frames, 40, 56).sigmoid()


@pytest.mark.slow
def test_pretrained_reward_over_http_is_the_same_as_here(pictures, monkeypatch):
    """To the last bit, for the pixels as 8 bits; with a token, and a clean end at Ctrl-C."""
    pixels, prompts = pictures(), ['a red circle', 'a blue ring', 'x']
    options = ['--port', 0, '--key-variable', 'TOKEN', '--max-batch', 3]
    with started('tools/serve_reward.py', *TINY, *options, TOKEN='sesame') as server:
        assert server.lines[-1].startswith('serving HPSReward on cpu at http://127.0.0.1:')
        with pytest.raises(ValueError, match='401'):
            RemoteReward(server.url, batch_size=3)
        monkeypatch.setenv('TOKEN', 'sesame')
        reward = RemoteReward(server.url, batch_size=3, key_variable='TOKEN')
        wanted = HPSReward(checkpoint='vipo://tiny-hps')(to_pixels(quantise(pixels)), prompts).scores
        assert torch.equal(reward(pixels, prompts).scores, wanted)
        with pytest.raises(ServiceError, match=r'sample 0, .* 422 .*scores pictures, and these are clips of 4'):
            reward(pictures(2, 4), prompts[:2])
        said, code = server.stop()
    assert code == 0
    assert 'stopped' in said
    assert '401' in said
    assert 'sesame' not in ''.join(server.lines) + said
    with pytest.raises(ServiceError, match='refused'):
        reward.client.get(server.url, '/info', 1.0)


@pytest.mark.slow
def test_plain_function_beside_its_config_and_an_end_in_the_middle_of_work(pictures, tmp_path):
    """SIGTERM while a request is being scored: it is answered first."""
    (tmp_path / 'my_served_reward.py').write_text(
        'import pathlib\nimport time\n\n\n'
        'def slowly(pixels, prompts, metadata):\n'
        '    pathlib.Path(metadata[0]["marker"]).touch()\n'
        '    time.sleep(1)\n'
        '    return pixels.mean((1, 2, 3, 4)) + metadata[0]["offset"]\n'
    )
    config = tmp_path / 'mine.py'
    config.write_text("reward = dict(type='FunctionReward', function='my_served_reward.slowly')\n")
    with started('tools/serve_reward.py', config, '--port', 0) as server:
        assert 'serving slowly on' in server.lines[-1]
        reward, pixels, got = RemoteReward(server.url, retries=0), pictures(2, 3), []
        marker = tmp_path / 'begun'
        metadata = [{'offset': 5, 'marker': str(marker)}, {}]
        client = threading.Thread(target=lambda: got.append(reward(pixels, ['a', 'b'], metadata)))
        client.start()
        while not marker.exists():
            assert client.is_alive()
            time.sleep(0.01)
        _, code = server.stop(signal.SIGTERM)
        client.join()
    assert code == 0
    torch.testing.assert_close(got[0].scores, to_pixels(quantise(pixels)).mean((1, 2, 3, 4)) + 5)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['HSPReward'], ["Did you mean 'HPSReward'"]),
        (['nowhere.py'], ["'nowhere.py' does not exist"]),
        (['configs/_base_/policy.py'], ['has no section reward']),
        (['tests.nowhere.function'], ['cannot be imported']),
        ([*TINY, 'reward.versoin=x'], ["Did you mean 'version'"]),
        ([*TINY, '--host', '203.0.113.1'], ['--host 203.0.113.1 --port 8321']),
        ([*TINY, '--port', '99999'], ['--port 99999']),
        ([*TINY, '--key-variable', 'NOT_SET_ANYWHERE'], ['NOT_SET_ANYWHERE is not set']),
        ([*TINY, '--max-batch', '0'], ['max_batch']),
        ([*TINY, '--device', 'gpu'], ['--device gpu']),
    ],
    ids=range(10),
)
def test_mistakes(capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(ROOT)
    given = arguments if '--port' in arguments or '--host' in arguments else [*arguments, '--port', '0']
    assert tool.main(given) == 2
    said = capsys.readouterr().err
    assert 'Traceback' not in said
    for word in words:
        assert word in said


def test_port_in_use_shows_before_a_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(HPSReward, '__init__', None)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        assert tool.main(['HPSReward', '--port', str(taken.getsockname()[1])]) == 2
    assert 'in use' in capsys.readouterr().err


def test_example_server_needs_no_more_than_numpy_and_pillow():
    modules = {
        name.split('.')[0]
        for node in ast.walk(ast.parse(EXAMPLE.read_text()))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, 'module', '')])
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert modules - set(sys.stdlib_module_names) == {'numpy', 'PIL'}


def test_example_server(pictures):
    pixels = pictures(5, 3)
    with started(EXAMPLE, free_port()) as server:
        reward = RemoteReward(server.url, batch_size=2, retries=0)
        got = reward(pixels, list('abcde'), [{'seed': i} for i in range(5)])
        torch.testing.assert_close(got.scores, to_pixels(quantise(pixels))[:, 0].mean((1, 2, 3)))
        assert got.valid.all()
        monkey = RemoteReward(server.url, retries=0)
        monkey.client.urls = [server.url]
        with pytest.raises(ServiceError, match=r'500.*version 1'):
            monkey.client.post('/score', b'{"version": 2}', lambda answer: answer)
