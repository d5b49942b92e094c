"""The live line and the times of phases."""

import re
import sys
import time

import pytest

from vipo.engine.clock import PhaseClock


def test_phases_and_rest_add_up_to_the_total():
    clock = PhaseClock(enabled=False)
    clock.start_iteration('iteration 1/2')
    with clock.phase('rollout', 4):
        time.sleep(0.02)
        clock.advance(4)
    with clock.phase('rollout'):
        time.sleep(0.01)
    time.sleep(0.01)
    clock.stop_iteration()
    assert clock.times['rollout'] >= 0.03
    assert clock.times['rest'] >= 0.01
    assert clock.times['rollout'] + clock.times['rest'] == pytest.approx(clock.times['total'])


def test_a_log_file_gets_a_line_only_after_silence(capsys):
    clock = PhaseClock(quiet_seconds=0.05)
    clock.start_iteration('iteration 3/9')
    with clock.phase('rollout', 8):
        clock.advance(2)
        assert capsys.readouterr().err == ''
        time.sleep(0.06)
        clock.status = 'reward 0.5'
        clock.advance(2)
    assert capsys.readouterr().err == 'iteration 3/9 | rollout 4/8 | reward 0.5\n'


def test_a_long_phase_says_how_long_it_will_take(capsys, monkeypatch):
    """By hand: 25 of 100 took 30 seconds, so 75 take 90; nothing is said of the first seconds or of the end."""
    now = [1000.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
    clock = PhaseClock(quiet_seconds=0.0)
    with clock.phase('rollout', 100):
        for passed, count in ((1, 5), (29, 20), (90, 75)):
            now[0] += passed
            clock.advance(count)
    assert capsys.readouterr().err.splitlines() == [
        'rollout 0/100',
        'rollout 5/100',
        'rollout 25/100, 0:01:30 left',
        'rollout 100/100',
    ]


def test_a_terminal_line_is_rewritten_in_place_and_wiped(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    clock = PhaseClock()
    clock.start_iteration('iteration 1/2')
    time.sleep(0.11)
    with clock.phase('decode', 2):
        time.sleep(0.11)
        clock.advance(1)
    clock.clear()
    written = capsys.readouterr().err
    assert '\n' not in written
    assert re.search(r'decode 1/2', written)
    assert written.endswith('\r\x1b[K')


def test_a_terminal_line_never_wraps(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    monkeypatch.setenv('COLUMNS', '40')
    clock = PhaseClock()
    clock.status = 'ETA 0:10:00 | reward 0.9 | clipped 1.0% | |ratio-1| first 0 max 0.2'
    clock.start_iteration('iteration 100/200')
    time.sleep(0.11)
    with clock.phase('rollout', 144):
        pass
    line = capsys.readouterr().err.removeprefix('\r\x1b[K')
    assert line == 'iteration 100/200 | rollout 0/144'


def test_other_ranks_are_silent(capsys):
    clock = PhaseClock(quiet_seconds=0.0, enabled=False)
    clock.start_iteration('x')
    with clock.phase('rollout', 1):
        clock.advance(1)
    clock.clear()
    assert capsys.readouterr().err == ''
