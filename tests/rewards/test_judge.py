"""A generative judge against an endpoint on a real socket that writes what the test says."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.ports import free_port
from tests.rewards.servers import Scripted, http, running, says
from vipo.engine.scoring import RewardFailure, score
from vipo.registry import REWARDS, ConfigError
from vipo.rewards import JudgeReward
from vipo.rewards.answers import UnusableAnswer, compile_patterns, read_numbers
from vipo.rewards.http_client import ServiceError
from vipo.rewards.judge import evenly_spaced
from vipo.rewards.stand_in import with_numbers
from vipo.rewards.wire import quantise

PATTERNS = {'look': r'Look:\s*([\d.]+)', 'match': r'Match:\s*(-?[\d.]+)'}
EXAMPLE = 'It is sharp.\nLook: 4.5\nMatch: 2'
OPTIONS = {
    'model': 'judge-7b',
    'patterns': PATTERNS,
    'low': 1,
    'high': 5,
    'example': EXAMPLE,
    'template': 'How well does {"x": 1} show: {prompt}',
    'timeout': 2.0,
    'retries': 1,
    'backoff': 0.01,
    'check': False,
}


def completion(text, ending='stop', **changes):
    choice = {'index': 0, 'message': {'role': 'assistant', 'content': text}, 'finish_reason': ending}
    return json.dumps({'object': 'chat.completion', 'choices': [choice], **changes}).encode()


def writes(*answers):
    """An endpoint that answers a request by the number that ends its prompt: the order of arrival does not matter."""

    def answer(request, connection):
        text = json.loads(request)['messages'][0]['content'][-1]['text']
        written = answers[int(text.split()[-1])]
        connection.sendall(http(written if isinstance(written, bytes) else completion(written)))

    return answer


@pytest.fixture
def pictures(normal):
    return lambda count=1, frames=1: normal(count, 3, frames, 6, 4).sigmoid()


def judged(pictures, *answers, **options):
    count = len(answers)
    with running(Scripted(writes(*answers))) as url:
        reward = JudgeReward(url, **{**OPTIONS, **options})
        return reward, reward(pictures(count), [f'a cat {i}' for i in range(count)])


def test_scores_by_hand(pictures):
    answers = [f'Look: {i % 5 + 1}\nMatch: {5 - i % 5}.0' for i in range(12)]
    reward, got = judged(pictures, *answers, concurrency=5, weights={'look': 1.0, 'match': 0.5}, scale=0.2)
    look = torch.tensor([i % 5 + 1.0 for i in range(12)])
    torch.testing.assert_close(got.parts['look'], look / 5)
    torch.testing.assert_close(got.parts['match'], (6 - look) / 5)
    torch.testing.assert_close(got.scores, look / 5 + 0.5 * (6 - look) / 5)
    assert reward.weights == {'look': 1.0, 'match': 0.5}
    assert got.valid.all()
    assert reward.counts == {'answers': 12}


def test_score_is_the_mean_of_the_parts_by_default(pictures):
    _, got = judged(pictures, 'Look: 2 Match: 5', 'Look: 1 Match: 1.5')
    assert got.scores.tolist() == [3.5, 1.25]


@pytest.mark.parametrize(
    ('answer', 'reason'),
    [
        ('', 'no match'),
        ('I cannot judge this.', 'no match'),
        ('Look: 3', 'no match'),
        ('Look: three Match: 3', 'no match'),
        ('Look: 3 Match: 3. Look: 4', 'ambiguous'),
        ('Look: 0.9 Match: 3', 'out of range'),
        ('Look: 5.1 Match: 3', 'out of range'),
        ('Look: 45 Match: 3', 'out of range'),
        ('Look: 3 Match: -3', 'out of range'),
        ('Look: 3.3.3 Match: 3', 'out of range'),
        ('Look: . Match: 3', 'out of range'),
        ('Look: ' + '9' * 400 + ' Match: 3', 'out of range'),
        (completion('Look: 3 Match: 4', 'length'), 'cut off'),
        (completion('Look: 3 Match: 4', 'content_filter'), 'cut off'),
        (completion('Look: 3 Match: 4', None), 'cut off'),
        (completion(None, 'length'), 'cut off'),
        (completion(None), 'no match'),
    ],
)
def test_unusable_answer_is_invalid_counted_and_shown(pictures, caplog, answer, reason):
    reward, got = judged(pictures, 'Look: 3 Match: 4', answer, 'Look: 1 Match: 1')
    assert got.valid.tolist() == [True, False, True]
    assert got.scores[[0, 2]].tolist() == [3.5, 1]
    assert got.scores[1].isnan()
    assert all(part[1].isnan() for part in got.parts.values())
    assert reward.counts == {'answers': 3, reason: 1}
    assert "for prompt 'a cat 1'" in caplog.text


def test_log_shows_the_first_unusable_answers_only(pictures, caplog):
    reward, got = judged(pictures, *['no'] * 20)
    assert not got.valid.any()
    assert reward.counts['no match'] == 20
    assert len(caplog.records) == 5
    assert 'only counted' in caplog.records[-1].message


def test_same_number_twice_is_no_ambiguity():
    compiled = compile_patterns(PATTERNS)
    assert read_numbers('Look: 3 ... so Look: 3.0, Match: 1', compiled, 1, 5) == {'look': 3, 'match': 1}
    with pytest.raises(UnusableAnswer, match='look has 2 different numbers'):
        read_numbers('Look: 3 ... no, Look: 3.5, Match: 1', compiled, 1, 5)


def test_request_is_what_openai_endpoints_take(pictures, monkeypatch):
    monkeypatch.setenv('JUDGE_KEY', 'sesame')
    pixels = pictures(1, 9)
    server = Scripted(says(completion('Look: 3 Match: 4')))
    with running(server) as url:
        reward = JudgeReward(
            f'{url}/v1/', **{**OPTIONS, 'frames': 3, 'key_variable': 'JUDGE_KEY', 'options': {'seed': 7}}
        )
        reward(pixels, ['a {prompt} of "cats"'])
    assert server.heads[0].startswith(b'POST /v1/chat/completions HTTP/1.1')
    assert b'Authorization: Bearer sesame' in server.heads[0]
    sent = json.loads(server.bodies[0])
    assert {k: v for k, v in sent.items() if k != 'messages'} == {
        'model': 'judge-7b',
        'temperature': 0.0,
        'max_tokens': 512,
        'seed': 7,
    }
    (message,) = sent['messages']
    *shown, text = message['content']
    assert message['role'] == 'user'
    assert text == {'type': 'text', 'text': 'How well does {"x": 1} show: a {prompt} of "cats"'}
    assert [part['type'] for part in shown] == ['image_url'] * 3
    for part, frame in zip(shown, (0, 4, 8), strict=True):
        kind, data = part['image_url']['url'].split(',')
        assert kind == 'data:image/png;base64'
        read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.array_equal(read, quantise(pixels)[0, frame])


@pytest.mark.parametrize(
    ('total', 'count', 'wanted'),
    [
        (1, 16, [0]),
        (5, 16, [0, 1, 2, 3, 4]),
        (5, 5, [0, 1, 2, 3, 4]),
        (9, 1, [4]),
        (8, 1, [3]),
        (81, 2, [0, 80]),
        (9, 3, [0, 4, 8]),
        (8, 3, [0, 4, 7]),
        (81, 6, [0, 16, 32, 48, 64, 80]),
        (10, 4, [0, 3, 6, 9]),
    ],
)
def test_frames_by_hand(total, count, wanted):
    assert evenly_spaced(total, count) == wanted


@pytest.mark.parametrize('count', [2, 3, 7, 16])
def test_frames_are_numpys_up_to_ties(count):
    for total in range(count + 1, 100):
        exact = np.linspace(0, total - 1, count)
        assert np.abs(np.array(evenly_spaced(total, count)) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        (b'{"error": {"message": "picture too large"}}', 'no chat completion'),
        (completion('x', choices=[]), 'no chat completion'),
        (completion(5), 'content is int'),
        (b'[]', 'no chat completion'),
    ],
)
def test_answer_that_is_no_completion_stops_the_run(pictures, answer, words):
    with running(Scripted(says(answer))) as url, pytest.raises(RewardFailure) as raised:
        score(JudgeReward(url, **OPTIONS), 'reward', pictures(2), ['a cat', 'a dog'])
    assert words in str(raised.value)
    assert "sample 0, prompt 'a cat'" in str(raised.value)


def test_refused_request_names_its_sample(pictures):
    def refuse(request, connection):
        bad = 'dog' in json.loads(request)['messages'][0]['content'][-1]['text']
        status = '400 Bad Request' if bad else '200 OK'
        body = b'{"object": "error", "message": "too long"}' if bad else completion('Look: 3 Match: 3')
        connection.sendall(http(body, status))

    with running(Scripted(refuse)) as url, pytest.raises(ServiceError, match=r'sample 1, prompt .*dog.*400.*too long'):
        JudgeReward(url, **OPTIONS)(pictures(3), ['a cat', 'a dog', 'a cow'])


def test_judge_that_restarts_and_judge_that_is_gone(pictures):
    with running(Scripted(says(b'', '503 Service Unavailable'), says(completion('Look: 3 Match: 3')))) as url:
        assert JudgeReward(url, **OPTIONS)(pictures(1), ['a cat']).scores.tolist() == [3]
    gone = JudgeReward(f'http://127.0.0.1:{free_port()}/v1', **OPTIONS)
    with pytest.raises(ServiceError, match=r"sample 0, prompt 'a cat': no answer in 2 attempts: .*refused"):
        gone(pictures(1), ['a cat'])


@pytest.mark.parametrize(
    ('answer', 'words'),
    [
        (b'{"data": [{"id": "judge-7b"}]}', None),
        (b'{"data": [{"id": "other"}]}', r"has no model 'judge-7b'; it has \['other'\]"),
        (b'{"version": 1}', 'no list of models'),
        (b'<html>', 'no JSON'),
    ],
)
def test_model_is_looked_up_at_build(answer, words):
    server = Scripted(says(answer))
    with running(server) as url:
        if words is None:
            JudgeReward(f'{url}/v1', **{**OPTIONS, 'check': True})
            assert server.heads[0].startswith(b'GET /v1/models ')
        else:
            with pytest.raises(ValueError, match=words):
                JudgeReward(f'{url}/v1', **{**OPTIONS, 'check': True})


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'patterns': {}}, 'at least one part'),
        ({'patterns': {'look': '('}}, r'reward\.patterns\.look: '),
        ({'patterns': {'look': 'Look'}}, 'must have one group, has 0'),
        ({'patterns': {'look': r'(Look): (\d)'}}, 'must have one group, has 2'),
        ({'patterns': {'look': r'Looks: (\d)'}}, r'do not read reward\.example: look is not found'),
        ({'example': 'Look: 7 Match: 3'}, 'look is 7, outside 1 to 5'),
        ({'low': 5, 'high': 1}, r'reward\.low must be below'),
        ({'high': float('inf')}, r'reward\.high must be finite'),
        ({'weights': {'lok': 1}}, r'reward\.weights must name parts'),
        ({'weights': {}}, r'reward\.weights must name parts'),
        ({'template': 'no place'}, r'must hold \{prompt\}'),
        ({'template': None}, r'one of reward\.template and reward\.template_file'),
        ({'template_file': 'x'}, r'one of reward\.template and reward\.template_file'),
        ({'template': None, 'template_file': '/nowhere.txt'}, r"template_file: '/nowhere.txt' cannot be read"),
        ({'frames': 0}, r'reward\.frames'),
        ({'concurrency': 0}, r'reward\.concurrency'),
        ({'max_tokens': 0}, r'reward\.max_tokens'),
        ({'options': {'model': 'x'}}, r"reward\.options must not hold 'model'"),
        ({'options': {'x': {1}}}, r'reward\.options must be plain'),
        ({'key_variable': 'NOT_SET_ANYWHERE'}, 'NOT_SET_ANYWHERE is not set'),
        ({'low': 'one'}, r'reward\.low must be float'),
    ],
    ids=str,
)
def test_mistake_shows_at_build(options, words):
    with pytest.raises(ConfigError, match=words):
        REWARDS.build({'type': 'JudgeReward', 'url': 'http://127.0.0.1:9', **OPTIONS, **options}, at='reward')


def test_template_from_a_file(pictures, tmp_path):
    file = tmp_path / 'template.txt'
    file.write_text('Judge ü: {prompt}\n', encoding='utf-8')
    server = Scripted(says(completion('Look: 3 Match: 4')))
    with running(server) as url:
        JudgeReward(url, **{**OPTIONS, 'template': None, 'template_file': str(file)})(pictures(1), ['a cat'])
    text = json.loads(server.bodies[0])['messages'][0]['content'][-1]['text']
    assert text == 'Judge ü: a cat\n'


def test_stand_in_of_a_rehearsal(pictures, tmp_path, monkeypatch):
    """No judge is there, and still every sample gets a number in the range, by way of the patterns."""
    monkeypatch.delenv('JUDGE_KEY', raising=False)
    options = {**OPTIONS, 'url': 'http://gpu-1:8000/v1', 'key_variable': 'JUDGE_KEY', 'check': True}
    reward = JudgeReward(**{**options, **JudgeReward.rehearsal(options, tmp_path)})
    got = reward(pictures(8, 3), [f'cat {i}' for i in range(8)])
    assert got.valid.all()
    assert len(set(got.scores.tolist())) > 4
    assert ((got.scores >= 1) & (got.scores <= 5)).all()
    assert JudgeReward.model_bytes(options) == 0


def test_numbers_of_the_stand_in():
    compiled = compile_patterns(PATTERNS)
    assert with_numbers(EXAMPLE, compiled, 3.3) == 'It is sharp.\nLook: 3.300\nMatch: 3'
