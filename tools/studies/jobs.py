"""Runs of the study: one variant with one seed, trained and tested in processes of their own."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from tools.studies.variants import COMMON, QUICK, SAMPLES, Variant
from vipo.registry import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
#: Maps of all runs are compared in this config's feature space, also those of runs without a map.
FEATURES = ROOT / 'configs' / 'vipo_tiny_sd3.py'


@dataclass(frozen=True)
class Job:
    """A variant with a seed.

    Attributes:
        folder: of everything that the job writes.
        extra: config options on top of the variant's own.
    """

    variant: Variant
    seed: int
    folder: Path
    extra: dict[str, Any]

    @property
    def _options(self) -> dict[str, Any]:
        return {**COMMON, **self.variant.options, **self.extra, 'randomness.seed': self.seed}

    @property
    def key(self) -> tuple[str, int]:
        return self.variant.name, self.seed

    @property
    def label(self) -> str:
        return f'{self.variant.name} seed {self.seed}'

    @property
    def settings(self) -> str:
        """Changes with anything that its results depend on: its config, its test and the embedded models."""
        content = json.dumps([self.config().to_dict(), SAMPLES, _assets()], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def config_file(self) -> Path:
        """Its config, written out; the name is what reports call the run."""
        return self.folder / f'{self.variant.name}.py'

    @property
    def run(self) -> Path:
        """Work dir of the training."""
        return self.folder / 'run'

    @property
    def tested(self) -> Path:
        """Where the results of the test go."""
        return self.run / 'test' / self.checkpoint.stem

    @property
    def checkpoint(self) -> Path:
        """That of the last iteration."""
        return self.run / f'iter_{self._options["train_cfg.max_iters"]}.pth'

    @property
    def done(self) -> bool:
        return (self.tested / 'results.json').exists()

    def config(self) -> Config:
        """The variant's config.

        Raises:
            ConfigError: an option leads nowhere.
        """
        from vipo.engine.config import override, read_config

        cfg = read_config(ROOT / 'configs' / f'{self.variant.base}.py')
        override(cfg, self._options)
        return cfg

    def check(self) -> str:
        """The text of its config.

        Raises:
            ConfigError: the folder holds a job of other settings.
        """
        text = self.config().pretty_text
        if self.config_file.exists() and self.config_file.read_text() != text:
            raise ConfigError(
                f'{self.folder} holds {self.label} with other settings; name another folder with --runs, or remove it'
            )
        return text

    def prepare(self) -> None:
        """Write the config; remove what an earlier start left that saved nothing.

        Raises:
            ConfigError: the folder holds a job of other settings.
        """
        from vipo.engine.checkpoint import find_latest

        text = self.check()
        if self.run.exists() and find_latest(str(self.run)) is None:
            shutil.rmtree(self.run)
        self.run.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(text)

    def commands(self) -> list[list[str]]:
        """Training, which goes on where it stopped, unless it has ended; and the test."""
        tools = ROOT / 'tools'
        train = ['train.py', self.config_file, '--work-dir', self.run, '--seed', self.seed, '--resume']
        test = ['test.py', self.config_file, self.checkpoint, '--features', FEATURES, '--samples-per-prompt', SAMPLES]
        ended = (self.run / 'summary.json').exists()
        lines = [test] if ended else [train, test]
        return [[sys.executable, str(tools / name), *map(str, rest)] for name, *rest in lines]


@cache
def _assets() -> str:
    """Of the bytes of all embedded models and prompts."""
    digest = hashlib.sha256()
    folder = ROOT / 'vipo' / 'assets'
    for file in sorted(path for path in folder.rglob('*') if path.is_file() and path.suffix not in ('.py', '.pyc')):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def plan(variants: Sequence[Variant], seeds: Sequence[int], runs: Path, quick: bool) -> list[Job]:
    """All jobs; every variant of a seed before the next seed, so that a study that is stopped has whole columns."""
    extra = QUICK if quick else {}
    return [Job(v, seed, runs / v.name / f'seed_{seed}', extra) for seed in seeds for v in variants]


class Pool:
    """Works through jobs, several at a time, each on one core with one thread.

    Args:
        count: jobs at a time.
        say: takes a line of progress.
    """

    def __init__(self, count: int, say: Callable[[str], None]) -> None:
        self._count, self._say = count, say
        self._lock = threading.RLock()  # a second signal may come while the first is handled
        self._stopped = threading.Event()
        self._running: set[subprocess.Popen] = set()

    def stop(self) -> None:
        """Ask what is running to save and leave; nothing new is started."""
        with self._lock:
            self._stopped.set()
            for process in self._running:
                process.terminate()

    def __call__(self, jobs: Sequence[Job], recorded: Collection[tuple[str, int]] = ()) -> list[str]:
        """Do those that are not done, here or by what is recorded; what went wrong, a line for each."""
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        todo = [job for job in jobs if not job.done and job.key not in recorded]
        for job in todo:
            waiting.put(job)
        self._say(f'{len(jobs) - len(todo)}/{len(jobs)} jobs are done; {len(todo)} to do, {self._count} at a time')
        began, failures, finished = time.perf_counter(), [], [len(jobs) - len(todo)]

        def work(core: int | None) -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})  # of this thread alone; what it starts inherits it
            while not self._stopped.is_set():
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                start = time.perf_counter()
                try:
                    problem = self._do(job)
                except (ConfigError, OSError) as error:
                    problem = str(error)
                if self._stopped.is_set():
                    return
                with self._lock:
                    finished[0] += 1
                    own = finished[0] - (len(jobs) - len(todo))
                    eta = (time.perf_counter() - began) / own * (len(todo) - own)
                    if problem:
                        failures.append(f'{job.label}: {problem}')
                    self._say(
                        f'{finished[0]}/{len(jobs)}  {job.label} {"failed" if problem else "done"} in '
                        f'{time.perf_counter() - start:.0f} s, ETA {eta / 60:.0f} min'
                    )

        threads = [threading.Thread(target=work, args=(core,)) for core in _cores(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # a join without a limit would keep signals waiting
                thread.join(0.5)
        return failures

    def _do(self, job: Job) -> str | None:
        """Train and test; what went wrong, if anything did."""
        job.prepare()
        single = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1')
        for command in job.commands():
            log = job.folder / f'{Path(command[1]).stem}.log'
            with open(log, 'ab') as out:
                with self._lock:
                    if self._stopped.is_set():
                        return None
                    process = subprocess.Popen(
                        command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **single}, cwd=ROOT
                    )
                    self._running.add(process)
                code = process.wait()
                with self._lock:
                    self._running.discard(process)
            if code:
                return f'{Path(command[1]).name} ended with {code}; its last words are in {log}'
        return None


def _cores(count: int) -> list[int | None]:
    """A core of this process's own for each worker, in turn; None where the system pins nothing."""
    if not hasattr(os, 'sched_setaffinity'):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i % len(cores)] for i in range(count)]
