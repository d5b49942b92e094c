"""A rank that hangs or fails: the others end, and say which one and where it was."""

import os
import subprocess
import sys
import threading
import time

import pytest
from torch.distributed import HashStore

import vipo.engine.watchdog as watchdog_module
from tests.engine.conftest import ROOT, SMALL
from tests.engine.launch import train_command
from tests.ports import free_port
from vipo.engine.clock import PhaseClock
from vipo.engine.runner import build_runner
from vipo.engine.watchdog import Place, Watchdog, fail, fail_unexpectedly
from vipo.registry import ConfigError


def place(rank, position, silent):
    now = time.time()
    return Place(rank, 'node', 1, position, 'iteration 2/4', 'reward', now - silent, now, 'judge.py:7 in wait')


@pytest.fixture
def watchdog():
    """One whose thread sleeps."""
    made = Watchdog(HashStore(), rank=0, world_size=3, timeout=60.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ('positions', 'silent', 'missing'),
    [
        (([4, 0.0, 0, 1], [3, 0.5, 0, 0], [4, 0.0, 0, 1]), (70, 90, 70), [1]),
        (([4, 0.0, 0, 1], [3, 0.5, 0, 0], [4, 0.0, 0, 1]), (70, 9, 70), []),  # slow, and at work
        (([4, 0.0, 0, 1], [3, 0.5, 0, 0], [4, 0.0, 0, 1]), (9, 90, 70), []),  # has not waited long
        (([4, 0.0, 0, 0], [4, 0.0, 0, 0], [4, 0.0, 0, 0]), (90, 90, 90), []),  # the same long step on all
        (([4, 0.0, 0, 1], [4, 0.0, 0, 0], [4, 0.0, 0, 0]), (90, 90, 90), [1, 2]),  # one waits at the same place
        (([4, 0.5, 1, 0], [4, 0.5, 0, 0], [4, 0.5, 1, 0]), (90, 90, 90), [1]),  # behind within a micro-step
    ],
)
def test_who_is_missing(watchdog, positions, silent, missing):
    places = [place(rank, *x) for rank, x in enumerate(zip(positions, silent, strict=True))]
    absent = watchdog.missing(places)
    assert [p.rank for p in absent] == missing
    if absent:
        said = watchdog.accuse(absent)
        assert f"rank {missing[0]} is missing: phase 'reward' of iteration 2/4, no progress since" in said
        assert 'at judge.py:7 in wait' in said


def test_places_follow_the_clock_and_other_ranks_hear_why_one_stopped(watchdog):
    watchdog.clock = clock = PhaseClock(enabled=False)
    clock.start_iteration('iteration 1/2')
    seen = [watchdog.publish()]
    with clock.phase('rollout', 4):
        seen.append(watchdog.publish())
        clock.advance(2)
        seen.append(watchdog.publish())
        clock.mark()
        seen.append(watchdog.publish())
    seen.append(watchdog.publish())
    assert [p.phase for p in seen] == ['loading', 'rollout', 'rollout', 'rollout', 'after rollout']
    positions = [p.position for p in seen]
    assert positions == sorted(positions)
    assert len({tuple(p) for p in positions}) == 5
    assert 'test_watchdog.py' in seen[0].line

    other = Watchdog(watchdog._store, rank=1, world_size=3, timeout=60.0)
    assert other.stopped() is None
    watchdog.note('the judge is gone')
    other.note('me too')
    assert watchdog.stopped() is None
    assert other.stopped() == "rank 0 stopped in phase 'after rollout' of iteration 1/2: the judge is gone"
    assert other.explain(RuntimeError('gloo')).startswith('rank 0 stopped')
    other.close()


def test_the_rank_that_keeps_the_store_leaves_last(watchdog, monkeypatch):
    class Left(Exception):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.delenv('TORCHELASTIC_USE_AGENT_STORE', raising=False)
    monkeypatch.setattr(watchdog_module, 'end_now', leave)
    others = [Watchdog(watchdog._store, rank, world_size=3, timeout=60.0) for rank in (1, 2)]
    for other in others:
        other.close()  # reads by itself no more

    def later():
        time.sleep(0.5)
        assert others[0].stopped().endswith('no room')  # one hears it
        time.sleep(0.5)
        with pytest.raises(Left):
            others[1].end('rank 0 is missing')  # the other has found out by itself

    reader = threading.Thread(target=later)
    began = time.time()
    reader.start()
    with pytest.raises(Left):
        watchdog.end('no room', tell=True)
    assert 0.9 < time.time() - began < 4
    reader.join()


def test_nobody_waits_for_ever_for_a_rank_that_is_gone(watchdog, monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_USE_AGENT_STORE', raising=False)
    monkeypatch.setattr(watchdog_module, '_PATIENCE', 0.3)
    monkeypatch.setattr(watchdog_module, 'end_now', lambda code: None)
    began = time.time()
    watchdog.end('no room', tell=True)
    assert 0.3 <= time.time() - began < 3


def test_a_rank_that_was_killed_is_told_from_a_network_that_failed(watchdog, monkeypatch):
    others = [Watchdog(watchdog._store, rank, world_size=3, timeout=60.0) for rank in (1, 2)]
    error = RuntimeError('[gloo/transport/tcp/pair.cc:1] Connection closed by peer\nmore')
    monkeypatch.setattr(watchdog_module, '_GRACE', 0.0)
    assert 'all of them still run' in watchdog.explain(error)
    others[0].close()  # says nothing any more, as a process that is gone
    monkeypatch.setattr(watchdog_module, '_GRACE', 2.5)
    said = watchdog.explain(error)
    others[1].close()
    assert "rank 0 lost the others in phase 'loading'; rank(s) [1] are gone" in said
    assert 'Connection closed by peer). Where they were last:\n  rank 1: phase' in said


def test_a_phase_without_samples_is_not_behind_one_that_has_some():
    one, two = PhaseClock(enabled=False), PhaseClock(enabled=False)
    with one.phase('encode', 0), two.phase('encode', 3):
        two.advance(1)
        assert one.progress[:3] > two.progress[:3]


def test_a_single_process_fails_by_itself(capsys):
    assert fail('no room', 3) == 3
    assert capsys.readouterr().err == 'error: no room\n'
    with pytest.raises(ZeroDivisionError):
        fail_unexpectedly(ZeroDivisionError())


@pytest.mark.parametrize('timeout', [0, -3, '30', True])
def test_a_wrong_timeout_is_refused(cfg, timeout):
    config = cfg(env_cfg__dist_cfg__timeout=timeout)
    config.launcher = 'pytorch'
    with pytest.raises(ConfigError, match=r'env_cfg\.dist_cfg\.timeout is a positive number of seconds'):
        build_runner(config)


def start(config, folder, *, options):
    """Two processes without torchrun, as Slurm starts them: rank 0 has the store, and nobody ends the others."""
    port = str(free_port())
    command = [sys.executable, *train_command(config, '--work-dir', str(folder), options=options)]
    shared = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'OMP_NUM_THREADS': '1'}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
        )
        for rank in range(2)
    ]
    said = ['', '']

    def follow(rank):
        said[rank] = processes[rank].communicate()[0]

    threads = [threading.Thread(target=follow, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    return processes, said, threads


def ending(processes, threads, within):
    """Exit codes, of processes that are killed where they do not end."""
    for thread in threads:
        thread.join(within)
    alive = [p for p in processes if p.poll() is None]
    for process in alive:
        process.kill()
    for thread in threads:
        thread.join()
    assert not alive
    return [p.returncode for p in processes]


REWARD = """
import os, time
from vipo.rewards.redness import RednessReward

class Trouble(RednessReward):
    calls = 0
    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 2 and os.environ['RANK'] == '{rank}':
            open('{mark}', 'w').close()
            {trouble}
        return super().__call__(*arguments)
"""


def troubled(folder, rank, trouble):
    (folder / 'trouble.py').write_text(REWARD.format(rank=rank, mark=folder / 'mark', trouble=trouble))
    config = folder / 'troubled.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vipo_tiny_sd3.py']\nreward = dict(_delete_=True, type='trouble.Trouble')\n"
    )
    return config


OPTIONS = {**SMALL, 'batch.updates_per_iteration': 1, 'evaluation': None}


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_even_if_it_has_the_store(tmp_path):
    options = {**OPTIONS, 'env_cfg.dist_cfg.timeout': 6}
    config = troubled(tmp_path, rank=0, trouble='time.sleep(1000)')
    processes, said, threads = start(config, tmp_path / 'run', options=options)
    until = time.time() + 120
    while not (tmp_path / 'mark').exists() and time.time() < until:
        time.sleep(0.1)
    began = time.time()
    codes = ending(processes, threads, within=60)
    took = time.time() - began
    assert codes == [3, 3], said
    for rank, whom in enumerate(('itself', 'one that waits')):
        line = next(line for line in said[rank].splitlines() if line.startswith('error:'))
        assert "error: rank 0 is missing: phase 'reward' of iteration 2/2, no progress since" in line
        assert 'trouble.py' in line
        assert 'Rank(s) [1] have waited for longer than env_cfg.dist_cfg.timeout=6 s' in line
        assert f'this is rank {rank}, {whom}' in line
    assert 'trouble.py' in said[0].partition('error:')[0], 'the stack of the rank that hangs'
    assert 5 < took < 30


@pytest.mark.slow
def test_a_rank_that_fails_alone_tells_the_other(tmp_path):
    config = troubled(tmp_path, rank=1, trouble="raise OSError('the judge is gone')")
    processes, said, threads = start(config, tmp_path / 'run', options=OPTIONS)
    codes = ending(processes, threads, within=120)
    assert codes == [3, 3], said
    assert 'error: reward (Trouble) failed on' in said[1]
    assert "error: rank 1 stopped in phase 'reward' of iteration 2/2: reward (Trouble) failed on" in said[0]
    assert 'the judge is gone' in said[0]
