"""What ``docs/reward-service.md`` shows is what the code does."""

import json
import re
from pathlib import Path

import pytest
import torch

from vipo.registry import REWARDS
from vipo.rewards import FunctionReward
from vipo.rewards.server import RewardServer
from vipo.rewards.service import STAND_IN
from vipo.rewards.wire import encode_png, read_answer, read_request

PAGE = (Path(__file__).resolve().parents[2] / 'docs' / 'reward-service.md').read_text()
INFO, REQUEST, ANSWER = (json.loads(block) for block in re.findall(r'```json\n(.*?)```', PAGE, re.S))


def test_messages_of_the_page_are_of_the_protocol():
    picture = encode_png(torch.zeros(4, 6, 3, dtype=torch.uint8).numpy())
    assert all(picture.startswith(frame.rstrip('.')[:9]) for s in REQUEST['samples'] for frame in s['frames'])
    filled = {**REQUEST, 'samples': [{'frames': [picture]}] * 2}
    assert read_request(json.dumps(filled).encode(), 2).metadata == [{'fps': 8}, {}]
    got = read_answer(ANSWER, 'the id of the request', 2)
    assert got.valid.tolist() == [True, False]
    server = RewardServer(FunctionReward(len))
    server.server_close()
    assert INFO.keys() == server.info().keys()
    assert INFO['max_batch'] == server.max_batch


@pytest.mark.parametrize('block', re.findall(r'```python\n(.*?)```', PAGE, re.S))
def test_configs_of_the_page_can_be_built(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('my_instruction.txt').write_text('Rate {prompt}.')
    config = {}
    exec(block, config)
    reward = REWARDS.build({**config['reward'], 'url': STAND_IN}, at='reward')
    assert reward(torch.rand(2, 3, 1, 8, 8), ['a', 'b']).valid.all()
