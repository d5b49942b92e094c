"""A remote reward against real sockets: what it survives, what it refuses, and how long it takes."""

import socket
import socketserver
import threading
import time

import pytest
import torch

from tests.ports import free_port
from tests.rewards import servers
from tests.rewards.servers import Scripted, http, running, says, scores, sleeps
from vipo.engine.scoring import RewardFailure, score
from vipo.registry import REWARDS, ConfigError
from vipo.rewards import RemoteReward
from vipo.rewards.http_client import JsonClient, ServiceError
from vipo.rewards.wire import WireError, quantise, to_pixels

QUICK = {'timeout': 0.2, 'retries': 2, 'backoff': 0.01, 'check': False}


@pytest.fixture
def clips(normal):
    return lambda count=4, frames=2, height=5, width=7: normal(count, 3, frames, height, width).sigmoid()


def test_requests_are_spread_over_the_servers(clips):
    one, two = Scripted(scores()), Scripted(scores())
    with running(one) as a, running(two) as b:
        got = RemoteReward([a, b], batch_size=2, **QUICK)(clips(6), list('abcdef'))
    assert got.scores.tolist() == [0, 1] * 3
    assert (len(one.bodies), len(two.bodies)) == (2, 1)


def test_servers_work_at_the_same_time(clips):
    with running(Scripted(sleeps(0.3, scores()))) as url:
        began = time.monotonic()
        RemoteReward(url, batch_size=1, concurrency=6, **{**QUICK, 'timeout': 5})(clips(6), list('abcdef'))
    assert time.monotonic() - began < 1.2, 'one after the other they would take 1.8 s'


@pytest.mark.parametrize(
    'behaviour',
    [
        sleeps(0.5, scores()),
        servers.drips,
        servers.drips_headers,
        servers.breaks_off,
        servers.breaks_off_unnoticed,
        servers.closes,
        servers.resets,
        says(b'<html>starting</html>'),
        says(b''),
        says(b'{"scores": [NaN]}'),
        says(b'\xff\xfe'),
        says(b'{"error": "busy"}', '503 Service Unavailable'),
        says(b'', '500 Internal Server Error'),
        says(b'slow down', '429 Too Many Requests'),
        lambda request, connection: connection.sendall(b'I am no web server\r\n\r\n'),
    ],
    ids=[
        *('slow', 'drips', 'drips headers', 'breaks off', 'breaks off unnoticed', 'closes', 'resets'),
        *('html', 'empty', 'NaN', 'not UTF-8', '503', '500', '429', 'no HTTP'),
    ],
)
def test_trouble_is_survived_by_a_retry_and_bounded_without(clips, behaviour):
    good = Scripted(behaviour, behaviour, scores())
    with running(good) as url:
        got = RemoteReward(url, **QUICK)(clips(3), ['a', 'b', 'c'])
    assert got.scores.tolist() == [0, 1, 2]
    assert len(good.bodies) == 3
    assert good.bodies[0] == good.bodies[1] == good.bodies[2], 'a retry is the same request, byte for byte'

    with running(Scripted(behaviour)) as url:
        began = time.monotonic()
        with pytest.raises(ServiceError, match=r'samples 0 to 2.*no answer in 3 attempts') as raised:
            RemoteReward(url, **QUICK)(clips(3), ['a', 'b', 'c'])
        assert time.monotonic() - began < 2, 'three attempts of 0.2 s; a drip alone would last for 4 s'
    assert url in str(raised.value)
    assert raised.value.sample is None


@pytest.mark.parametrize(
    ('behaviour', 'words'),
    [
        (scores(scores=[0.5]), 'list of 3 numbers, got 1'),
        (scores(scores=[0.5] * 4), 'list of 3 numbers, got 4'),
        (scores(scores=[0.5, 'a', 0.5]), 'finite numbers or null'),
        (scores(scores=[0.5, None, 0.5]), 'null where "valid" is false'),
        (scores(valid=[True, True]), '"valid" must be a list of 3'),
        (scores(valid=None), "lacks 'valid'"),
        (scores(version=7), 'protocol version 7'),
        (scores(id='another'), 'answers another request'),
        (scores(parts={'a': [1]}), 'parts.a'),
        (scores(error='half of the GPUs are gone'), "unknown key 'error'"),
        (says(b'0.5'), 'must be a JSON object'),
        (says(b'{"error": "who are you"}', '401 Unauthorized'), '401 Unauthorized, "who are you"'),
        (says(b'{"detail": "x"}', '404 Not Found'), '404 Not Found, "{"detail": "x"}"'),
        (says(b'', '302 Found'), '302 Found'),
        (says(b'', '204 No Content'), '204 No Content'),
        (says(b'{"error": {"message": "too long"}}', '400 Bad Request'), '"too long"'),
    ],
    ids=range(16),
)
def test_wrong_answer_is_final_and_never_a_score(clips, behaviour, words):
    server = Scripted(behaviour)
    with running(server) as url, pytest.raises(ServiceError) as raised:
        RemoteReward(url, **QUICK)(clips(3), ['a', 'b', 'c'])
    assert words in str(raised.value)
    assert f'{url}/score' in str(raised.value)
    assert len(server.bodies) == 1


def test_answer_without_end_is_not_read_for_ever(clips, monkeypatch):
    monkeypatch.setattr('vipo.rewards.http_exchange.MAX_ANSWER', 1000)
    with running(Scripted(says(b' ' * 1001), scores())) as url:
        assert RemoteReward(url, **QUICK)(clips(2), ['a', 'b']).scores.tolist() == [0, 1]


def test_server_that_restarts_loses_nothing(clips):
    """It dies with a request in hand, its port refuses for a while, and a new one on the port answers."""
    port = free_port()
    got = []
    reward = RemoteReward(f'http://127.0.0.1:{port}', **{**QUICK, 'retries': 30, 'max_backoff': 0.05, 'batch_size': 2})
    with running(Scripted(scores(), servers.breaks_off, port=port)):
        client = threading.Thread(target=lambda: got.append(reward(clips(6), list('abcdef'))))
        client.start()
        time.sleep(0.1)
    time.sleep(0.2)
    assert client.is_alive(), 'it goes on trying'
    with running(Scripted(scores(), port=port)):
        client.join(5)
    assert got[0].scores.tolist() == [0, 1] * 3


def test_one_of_two_servers_is_down(clips):
    with running(Scripted(scores())) as url:
        reward = RemoteReward([f'http://127.0.0.1:{free_port()}', url], batch_size=1, **QUICK)
        assert reward(clips(4), list('abcd')).scores.tolist() == [0] * 4


def test_server_that_is_gone_stops_the_run_within_its_time(clips):
    url = f'http://127.0.0.1:{free_port()}'
    reward = RemoteReward(url, **QUICK)
    began = time.monotonic()
    with pytest.raises(RewardFailure) as raised:
        score(reward, 'reward', clips(3), ['a cat', 'b', 'c'])
    assert time.monotonic() - began < 1
    assert 'of 3 samples (by no fault of theirs)' in str(raised.value), 'none of them is tried alone'
    for words in ("'a cat'", 'samples 0 to 2', 'no answer in 3 attempts', f'{url}/score', 'refused (3 times)'):
        assert words in str(raised.value)


def test_waits_double_up_to_a_bound(monkeypatch):
    waits = []
    monkeypatch.setattr(time, 'sleep', waits.append)
    client = JsonClient(f'http://127.0.0.1:{free_port()}', timeout=0.2, retries=5, backoff=1, max_backoff=5)
    with pytest.raises(ServiceError):
        client.post('/score', b'{}', lambda answer: answer)
    assert waits == [1, 2, 4, 5, 5]
    waits.clear()
    client.retries = 2000
    with pytest.raises(ServiceError, match=r'2001 attempts: [^;]*\(2001 times\)'):
        client.post('/score', b'{}', lambda answer: answer)
    assert max(waits) == 5


def test_nothing_new_is_begun_after_a_failure(clips):
    server = Scripted(says(b'', '400 Bad Request'))
    with running(server) as url, pytest.raises(ServiceError):
        RemoteReward(url, batch_size=1, **QUICK)(clips(50), ['a'] * 50)
    assert len(server.bodies) < 5


def test_answers_that_differ_in_their_parts(clips):
    with running(Scripted(scores(), scores(parts={'a': [0.0]}))) as url, pytest.raises(ServiceError, match='differ in'):
        RemoteReward(url, batch_size=1, **QUICK)(clips(2), ['a', 'b'])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda p: p.mul_(float('nan')), 'pixels of sample 0 are not finite'),
        (lambda p: p.resize_(3, 4, 1, 8, 8), r'floats \(B, 3, F, Y, X\)'),
    ],
)
def test_bad_pixels_are_refused_before_they_travel(clips, change, words):
    pixels = clips(2)
    change(pixels)
    with pytest.raises(ValueError, match=words):
        RemoteReward('http://127.0.0.1:9', **QUICK)(pixels, ['a'] * len(pixels))


def test_metadata_that_cannot_travel(clips):
    with pytest.raises(WireError, match='metadata of sample 1'):
        RemoteReward('http://127.0.0.1:9', **QUICK)(clips(2), ['a', 'b'], [{}, {'x': {1}}])


def test_connection_that_breaks_off_is_called_so(clips):
    with running(Scripted(servers.breaks_off)) as url, pytest.raises(ServiceError, match='broke off within the answer'):
        RemoteReward(url, **{**QUICK, 'retries': 0})(clips(1), ['a'])


def test_client_listens_where_it_cannot_send_any_more():
    """A server that answers and hangs up at once, with most of the request unread."""

    class Rude(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(100)
            self.request.sendall(http(b'{"error": "too large"}', '413 Payload Too Large'))
            self.request.shutdown(socket.SHUT_WR)
            time.sleep(0.1)

    rude = socketserver.TCPServer(('127.0.0.1', 0), Rude)
    with running(rude) as url, pytest.raises(ServiceError, match=r'413 .*too large'):
        JsonClient(url, timeout=5, retries=0).post('/score', b' ' * 30_000_000, lambda answer: answer)


def test_address_is_checked_at_build():
    url = f'http://127.0.0.1:{free_port()}'
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"config key 'reward': reward\.url: .*refused.*serve_reward\.py"):
        REWARDS.build({'type': 'RemoteReward', 'url': url}, at='reward')
    assert time.monotonic() - began < 2
    REWARDS.build({'type': 'RemoteReward', 'url': url, 'check': False}, at='reward')


@pytest.mark.parametrize(
    ('behaviour', 'words'),
    [
        (says(b'<html></html>'), 'no JSON'),
        (says(b'{}'), 'version None of the protocol'),
        (says(b'[1]'), 'version None of the protocol'),
        (says(b'{"version": 2}'), 'version 2 of the protocol'),
        (says(b'{"version": 1, "max_batch": 4}'), 'at most 4 samples'),
        (says(b'{"error": "x"}', '404 Not Found'), '404'),
        (servers.closes, 'closed without an answer'),
        (sleeps(1, scores()), 'timed out'),
    ],
    ids=range(8),
)
def test_what_is_no_reward_server_is_refused_at_build(behaviour, words):
    with running(Scripted(behaviour)) as url, pytest.raises(ValueError, match=words):
        RemoteReward(url, timeout=0.2)


def test_check_asks_who_is_there():
    asked = Scripted(lambda request, connection: connection.sendall(http(b'{"version": 1}')))
    with running(asked) as url:
        RemoteReward(url, timeout=0.2)
    assert asked.heads[0].startswith(b'GET /info HTTP/1.1')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'url': []}, 'empty list'),
        ({'url': ['http://host', 5]}, 'a list of texts, got 5'),
        ({'url': 'localhost:8000'}, 'must look like http://host:port'),
        ({'url': 'ftp://localhost'}, 'must look like'),
        ({'url': 'http://'}, 'must look like'),
        ({'url': 'http://host:port'}, 'must look like'),
        ({'url': 'http://host:80/a b'}, 'must look like'),
        ({'url': 'http://host?key=1'}, 'must look like'),
        ({'url': 'http://me:secret@host'}, 'must not hold a password'),
        ({'timeout': 0}, 'reward.timeout'),
        ({'timeout': float('nan')}, 'reward.timeout'),
        ({'timeout': float('inf')}, 'reward.timeout'),
        ({'retries': -1}, 'reward.retries'),
        ({'backoff': -1}, 'reward.backoff'),
        ({'backoff': 60}, 'reward.backoff'),
        ({'batch_size': 0}, 'reward.batch_size'),
        ({'concurrency': 0}, 'reward.concurrency'),
    ],
    ids=str,
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words) as raised:
        RemoteReward(**{'url': 'http://127.0.0.1:9', 'check': False, **options})
    assert 'secret' not in str(raised.value)


def test_stand_in_of_a_rehearsal(clips, tmp_path, monkeypatch):
    monkeypatch.delenv('MY_TOKEN', raising=False)
    options = {'url': ['http://gpu-1:8321', 'http://gpu-2:8321'], 'key_variable': 'MY_TOKEN', 'batch_size': 2}
    changed = {**options, **RemoteReward.rehearsal(options, tmp_path)}
    pixels = clips(5)
    got = RemoteReward(**changed)(pixels, list('abcde'))
    assert torch.equal(got.scores, to_pixels(quantise(pixels)).mean((1, 2, 3, 4)))
    assert RemoteReward.model_bytes(options) == 0
