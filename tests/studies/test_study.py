"""The study tool, from a tiny variant to a page."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.engine.conftest import ROOT, SMALL
from tools import study
from tools.studies import jobs as jobs_module
from tools.studies.collect import recorded
from tools.studies.jobs import Job
from tools.studies.variants import VARIANTS
from vipo.registry import ConfigError


@pytest.mark.slow
def test_a_variant_from_start_to_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs_module, 'COMMON', jobs_module.COMMON | SMALL)
    runs, out = tmp_path / 'runs', tmp_path / 'out'
    command = ['--only', 'oracle', '--seeds', '100', '--runs', str(runs), '--out', str(out)]
    assert study.main(command) == 0
    said = capsys.readouterr().out
    assert '1/1' in said
    assert 'ETA' in said
    with open(out / 'results.csv') as file:
        rows = list(csv.DictReader(file))
    assert {(row['variant'], row['seed']) for row in rows} == {('oracle', '100')}
    measures = {row['measure'] for row in rows}
    assert {'reward', 'judge', 'pick', 'change/background', 'diversity/pixels', 'log/clipped_fraction'} <= measures
    tested = runs / 'oracle' / 'seed_100' / 'run' / 'test' / 'iter_2'
    saved = json.loads((tested / 'results.json').read_text())['measures']['reward']['difference']['value']
    (row,) = [row for row in rows if (row['variant'], row['measure']) == ('oracle', 'reward')]
    assert float(row['difference']) == pytest.approx(saved, rel=1e-4)
    assert float(row['after']) - float(row['before']) == pytest.approx(saved, abs=1e-5)
    assert '`oracle`' in (out / 'README.md').read_text()
    # what is done is not done again
    before = (tested / 'results.json').stat().st_mtime_ns
    assert study.main(command) == 0
    assert '1/1 jobs are done; 0 to do' in capsys.readouterr().out
    assert (tested / 'results.json').stat().st_mtime_ns == before
    # nor on a machine that has the table alone, which keeps its rows
    table = (out / 'results.csv').read_text()
    shutil.rmtree(runs)
    assert study.main(command) == 0
    assert '1/1 jobs are done; 0 to do' in capsys.readouterr().out
    assert (out / 'results.csv').read_text() == table
    # a table of other settings is not added to
    monkeypatch.setitem(jobs_module.COMMON, 'loss.clip_range', 0.1)
    assert study.main(command) == 2
    assert 'was made with other settings (oracle seed 100, 1 in all)' in capsys.readouterr().err
    assert (out / 'results.csv').read_text() == table


def test_other_settings_are_refused(tmp_path):
    variant = VARIANTS[0]
    Job(variant, 100, tmp_path, {}).prepare()
    Job(variant, 100, tmp_path, {}).prepare()
    other = Job(variant, 100, tmp_path, {'loss.clip_range': 0.1})
    with pytest.raises(ConfigError, match='other settings'):
        other.prepare()
    # nor do the results of a run that is done pass for those of other settings
    other.tested.mkdir(parents=True)
    (other.tested / 'results.json').touch()
    with pytest.raises(ConfigError, match='other settings'):
        recorded([other], tmp_path)


def test_what_saved_nothing_is_begun_anew(tmp_path):
    job = Job(VARIANTS[0], 100, tmp_path, {})
    job.prepare()
    (job.run / 'history.jsonl').write_text('{}\n')
    job.prepare()
    assert list(job.run.iterdir()) == []


def test_failure_is_told_with_its_log(tmp_path, monkeypatch, capsys):
    crash = [sys.executable, '-c', 'import sys; print("the reason"); sys.exit(3)']
    monkeypatch.setattr(Job, 'commands', lambda self: [crash])
    command = ['--only', 'grpo', '--seeds', '100', '--runs', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out')]
    assert study.main(command) == 1
    said = capsys.readouterr()
    assert 'failed' in said.out
    assert 'grpo seed 100: -c ended with 3' in said.err
    assert 'the reason' in next((tmp_path / 'runs').rglob('*.log')).read_text()


@pytest.mark.slow
def test_signal_stops_what_runs(tmp_path):
    """A study in a process of its own: it ends with what it started, and says how to go on."""
    script = (
        'import sys; from tools import study; from tools.studies.jobs import Job\n'
        'Job.commands = lambda self: [[sys.executable, "-c", "import time; time.sleep(600)"]]\n'
        f'sys.exit(study.main(["--only", "grpo", "--seeds", "100", "--runs", {str(tmp_path / "runs")!r}]))'
    )
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    process = subprocess.Popen(
        [sys.executable, '-c', script], stderr=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob('*.log')):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert 'run the same line again' in said
