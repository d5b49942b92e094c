"""The server of rewards: what it scores, whom it refuses, and what it does twice."""

import json
import socket
import time

import pytest
import torch

from tests.rewards.servers import running
from vipo.engine.scoring import RewardFailure, score
from vipo.rewards import FunctionReward, HPSReward, RemoteReward, Reward, RewardOutput
from vipo.rewards.http_client import ServiceError
from vipo.rewards.server import RewardServer
from vipo.rewards.wire import quantise, to_pixels
from vipo.scenes.judge import SceneJudge

QUICK = {'timeout': 0.2, 'retries': 2, 'backoff': 0.01, 'check': False}


@pytest.fixture
def clips(normal):
    return lambda count=4, frames=2, height=5, width=7: normal(count, 3, frames, height, width).sigmoid()


def mean(pixels, prompts, metadata):
    """Mean brightness."""
    return pixels.mean((1, 2, 3, 4))


def serve(reward, **options):
    return running(RewardServer(reward if isinstance(reward, Reward) else FunctionReward(reward), **options))


@pytest.mark.parametrize(('batch_size', 'concurrency'), [(8, 1), (2, 1), (2, 3), (1, 5), (3, 8)])
def test_scores_are_those_of_the_rounded_pixels_in_their_order(clips, batch_size, concurrency):
    pixels, prompts = clips(7), list('abcdefg')
    with serve(mean) as url:
        got = RemoteReward(url, batch_size=batch_size, concurrency=concurrency)(pixels, prompts)
    assert torch.equal(got.scores, to_pixels(quantise(pixels)).mean((1, 2, 3, 4)))
    assert got.valid.all()


def test_model_behind_a_server_scores_as_in_this_process(clips):
    pixels, prompts = clips(4, 1, 40, 56), ['a red circle', 'a blue ring', 'a red circle', 'x']
    reward = HPSReward(checkpoint='vipo://tiny-hps')
    with serve(reward) as url:
        got = RemoteReward(url)(pixels, prompts)
    assert torch.equal(got.scores, reward(to_pixels(quantise(pixels)), prompts).scores)


class Everything(Reward):
    """All that a reward can return: what it was given in its parts, an invalid sample, weights."""

    def __init__(self):
        self.weights = {'length': 1}

    def __call__(self, pixels, prompts, metadata=None):
        assert not torch.is_grad_enabled()
        lengths = torch.tensor([float(len(p)) for p in prompts])
        fps = torch.tensor([m.get('fps', float('nan')) for m in metadata])
        valid = torch.tensor(['bad' not in p for p in prompts])
        return RewardOutput(lengths, {'length': lengths, 'fps': fps}, valid)


def test_parts_validity_metadata_and_weights_travel(clips):
    with serve(Everything()) as url:
        reward = RemoteReward(url, batch_size=2)
        got = reward(clips(3), ['a', 'bad', 'ccc'], [{'fps': 8.5}, {'fps': 2}, {}])
    assert got.valid.tolist() == [True, False, True]
    assert got.scores[[0, 2]].tolist() == [1, 3]
    assert got.scores[1].isnan()
    assert got.parts['length'].tolist() == [1, 3, 3]
    assert got.parts['fps'][:2].tolist() == [8.5, 2]
    assert got.parts['fps'][2].isnan()
    assert reward.weights == {'length': 1.0}


def test_reward_that_fails_on_a_sample_names_it(clips):
    """422 for what is the sample's fault, at once and over the whole way; the engine names sample and prompt."""
    prompts = ['a small red circle at the left on a plain gray background'] * 3 + ['a cat']
    with serve(SceneJudge()) as url:
        reward = RemoteReward(url, batch_size=2, retries=9, backoff=5)
        with pytest.raises(ServiceError, match=r"sample 3, prompt 'a cat': .*422 .*SceneJudge.*not a scene") as raised:
            reward(clips(4, 1, 64, 64), prompts)
        assert raised.value.sample == 3
        with pytest.raises(RewardFailure, match=r"reward \(RemoteReward\) failed on sample 3, prompt 'a cat'"):
            score(reward, 'reward', clips(4, 1, 64, 64), prompts)


def test_reward_that_raises_is_tried_again_and_then_an_error(clips):
    calls = []

    def moody(pixels, prompts, metadata):
        calls.append(len(prompts))
        if len(calls) < 5:  # the batch, and each of its samples: twice
            raise RuntimeError('out of memory')
        return mean(pixels, prompts, metadata)

    with serve(moody) as url:
        got = RemoteReward(url, **QUICK)(clips(1), ['a'])
        assert got.valid.all()
        assert calls == [1] * 5
        calls.clear()
        with pytest.raises(ServiceError, match=r'no answer in 1 attempt: .* status 500 .*out of memory'):
            RemoteReward(url, **{**QUICK, 'retries': 0})(clips(1), ['a'])


@pytest.mark.parametrize(
    ('result', 'words'),
    [(lambda p, *_: [1.0], 'shape'), (lambda p, *_: RewardOutput(torch.zeros(2), {'a': torch.zeros(1)}), 'a of 2')],
)
def test_reward_that_returns_the_wrong_number_of_scores(clips, result, words):
    with serve(result) as url, pytest.raises(ServiceError, match=f'422.*{words}'):
        RemoteReward(url, **QUICK)(clips(2), ['a', 'b'])


def test_requests_reach_the_reward_one_at_a_time(clips):
    inside, most = [], []

    def careful(pixels, prompts, metadata):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return mean(pixels, prompts, metadata)

    with serve(careful) as url:
        RemoteReward(url, batch_size=1, concurrency=6)(clips(6), list('abcdef'))
    assert most == [1] * 6


def test_retry_of_a_slow_request_joins_the_first(clips):
    """The reward needs longer than a client waits: the work is done once, and the retry gets its result."""
    calls = []

    def slow(pixels, prompts, metadata):
        calls.append(len(prompts))
        time.sleep(0.5)
        return mean(pixels, prompts, metadata)

    with serve(slow) as url:
        reward = RemoteReward(url, **{**QUICK, 'timeout': 0.3, 'retries': 30})
        assert reward(clips(2), ['a', 'b']).valid.all()
        assert calls == [2]
        reward(clips(2), ['a', 'b'])
        assert calls == [2, 2], 'a new call is a new request'


def ask(url, head, body=b'', timeout=5):
    host, port = url.removeprefix('http://').split(':')
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(head + b'\r\n\r\n' + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b''
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b'\r\n\r\n')
    return int(head.split()[1]) if head else None, json.loads(body) if body else None


@pytest.mark.parametrize(
    ('head', 'body', 'status', 'words'),
    [
        (b'GET /info HTTP/1.1', b'', 200, None),
        (b'GET / HTTP/1.1', b'', 404, 'GET /info'),
        (b'POST /scores HTTP/1.1\r\nContent-Length: 2', b'{}', 404, 'POST /score'),
        (b'POST /score HTTP/1.1', b'', 411, 'Content-Length'),
        (b'POST /score HTTP/1.1\r\nContent-Length: -5', b'', 411, 'Content-Length'),
        (b'POST /score HTTP/1.1\r\nTransfer-Encoding: chunked', b'0\r\n\r\n', 411, 'Content-Length'),
        (b'POST /score HTTP/1.1\r\nContent-Length: 10001', b'{}', 413, '10000 bytes'),
        (b'POST /score HTTP/1.1\r\nContent-Length: 2', b'{}', 400, 'lacks'),
        (b'POST /score HTTP/1.1\r\nContent-Length: 4', b'\x80\x04K\x01', 400, 'no JSON'),
        (b'POST /score HTTP/1.1\r\nContent-Length: 20', b'{}', None, None),
        (b'DELETE /score HTTP/1.1', b'', 501, 'DELETE'),
        (b'nonsense', b'', 400, 'nonsense'),
    ],
    ids=range(12),
)
def test_server_answers_every_request_in_json(clips, head, body, status, words):
    with serve(mean, max_bytes=10000) as url:
        got, said = ask(url, head, body)
        assert got == status
        if words is not None:
            assert words in said['error']
            assert said['sample'] is None
        assert RemoteReward(url)(clips(1, 1), ['a']).valid.all(), 'and lives on'


def test_request_that_never_arrives_is_given_up(monkeypatch, clips):
    monkeypatch.setattr('vipo.rewards.server.ARRIVAL', 0.2)
    with serve(mean) as url:
        host, port = url.removeprefix('http://').split(':')
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b'POST /score HTTP/1.1\r\nContent-Length: 1000\r\n\r\n')
            began = time.monotonic()
            for _ in range(100):
                time.sleep(0.02)
                try:
                    connection.sendall(b' ')
                except OSError:
                    break
        assert time.monotonic() - began < 1.5, 'the bytes go on for 2 s'


def test_server_takes_the_rest_of_what_it_refuses():
    """Else a client that sends everything before it listens would never hear the reason."""
    with serve(mean, max_bytes=1000) as url:
        status, said = ask(url, b'POST /score HTTP/1.1\r\nContent-Length: 30000000', b' ' * 30_000_000)
    assert status == 413
    assert 'send fewer samples' in said['error']


def test_client_hears_why_a_large_request_is_refused(clips):
    """The server answers and hangs up while the client still sends."""
    with serve(mean, max_bytes=1000) as url, pytest.raises(ServiceError, match=r'413.*1000 bytes.*send fewer samples'):
        RemoteReward(url, timeout=5, retries=0)(clips(2, 8, 400, 400), ['a', 'b'])


def test_token(clips, monkeypatch, caplog):
    monkeypatch.setenv('MY_TOKEN', 'sesame-1234')
    monkeypatch.setenv('OTHER_TOKEN', 'wrong-5678')
    with serve(mean, key='sesame-1234') as url:
        assert RemoteReward(url, key_variable='MY_TOKEN')(clips(2), ['a', 'b']).valid.all()
        with pytest.raises(ValueError, match=r'401.*bearer token'):
            RemoteReward(url)
        with pytest.raises(ServiceError, match=r'401.*bearer token') as raised:
            RemoteReward(url, key_variable='OTHER_TOKEN', **QUICK)(clips(2), ['a', 'b'])
    for secret in ('sesame', 'wrong-5678'):
        assert secret not in str(raised.value) + caplog.text


@pytest.mark.parametrize('key', [None, '', '  ', 'two words', 'line\nbreak', 'ü'])
def test_token_that_cannot_be_sent(monkeypatch, key):
    monkeypatch.delenv('MY_TOKEN', raising=False)
    if key is not None:
        monkeypatch.setenv('MY_TOKEN', key)
    with pytest.raises(ValueError, match=r'reward\.key_variable: .*MY_TOKEN') as raised:
        RemoteReward('http://127.0.0.1:9', key_variable='MY_TOKEN', check=False)
    assert not key or not key.strip() or key not in str(raised.value)


def test_info_names_the_function_and_its_first_line():
    with serve(mean, max_batch=5) as url:
        _, info = ask(url, b'GET /info HTTP/1.1')
    assert info == {'version': 1, 'name': 'mean', 'scores': 'Mean brightness.', 'max_batch': 5, 'max_bytes': 2**28}
