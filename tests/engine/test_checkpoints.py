"""A checkpoint is whole or refused, and what is refused says how to go on."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import ROOT, SMALL, run, small_config
from tests.engine.launch import launch
from tools import export, train, verify_checkpoint
from vipo.engine.checkpoint import find_latest, remove_oldest, saved_checkpoints, set_aside_later, write_checkpoint
from vipo.engine.files import manifest_of, write_atomically
from vipo.engine.scoring import RunStopped
from vipo.engine.start import check_start
from vipo.engine.verify import inspect
from vipo.registry import ConfigError

CONFIG = str(ROOT / 'configs' / 'vipo_tiny_sd3.py')
OPTIONS = {
    'train_cfg__max_iters': 2,
    'default_hooks__checkpoint__interval': 1,
    'evaluation': None,
    'generator__lora__rank': 4,
}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run of two iterations that saved both."""
    return run(small_config(tmp_path_factory.mktemp('finished'), **OPTIONS))


@pytest.fixture
def work_dir(finished, tmp_path):
    """A copy of its folder to spoil."""
    return Path(shutil.copytree(finished.work_dir, tmp_path / 'run'))


def flip(path):
    """Change one bit among the numbers of the largest tensor."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def rewrite(path, change):
    """Save it anew, without a sha256."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    manifest_of(path).unlink()


def verify(*paths):
    return verify_checkpoint.main([str(p) for p in paths])


def test_the_manifest_is_one_of_sha256sum(work_dir):
    for path in (work_dir / 'iter_1.pth', work_dir / 'iter_2.pth'):
        wanted = hashlib.sha256(path.read_bytes()).hexdigest()
        assert manifest_of(path).read_text() == f'{wanted}  {path.name}\n'
    subprocess.run(['sha256sum', '--check', '--strict', 'iter_1.pth.sha256'], cwd=work_dir, check=True)


def test_a_whole_folder(work_dir, capsys):
    shutil.copy(work_dir / 'iter_1.pth', work_dir / 'best.pth')
    (work_dir / 'iter_9.pth.sha256').write_text('0' * 64)
    assert verify(work_dir) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ['checkpoint', 'iteration', 'seed', 'config']
    weights = torch.load(work_dir / 'iter_2.pth', weights_only=True)['state_dict']
    count = f'{sum(x.numel() for x in weights.values()):,}'
    cells = [row.split() for row in rows]
    assert [Path(c[0]).name for c in cells] == ['best.pth', 'iter_1.pth', 'iter_2.pth']
    assert cells[2][1:6] == ['2', '0', 'vipo_tiny_sd3', str(len(weights)), count]
    assert [(c[1], c[-2], c[-1]) for c in cells] == [
        ('1', 'none', 'whole'),
        ('1', 'agrees', 'whole'),
        ('2', 'agrees', 'whole'),
    ]


def test_nothing_to_verify(tmp_path, capsys):
    assert verify(tmp_path) == 2
    assert 'no checkpoint' in capsys.readouterr().err
    assert verify(tmp_path / 'nowhere.pth') == 1
    assert 'does not exist' in capsys.readouterr().err


def unlisted(change):
    """The same damage to a file without a sha256."""

    def both(path):
        manifest_of(path).unlink()
        change(path)

    both.__name__ = f'{change.__name__}, no sha256'
    return both


def strip(path):
    rewrite(path, lambda content: content.pop('optimizer'))


def rename(path):
    rewrite(path, lambda content: content['meta'].update(iter=7))


def shrink_average(path):
    rewrite(path, lambda content: content['ema'].popitem())


def bare(path):
    rewrite(path, lambda content: [content.pop(k) for k in list(content) if k != 'state_dict'])


def a_list(path):
    manifest_of(path).unlink()
    torch.save([1, 2], path)


def empty(path):
    path.write_bytes(b'')


def spoil_manifest(path):
    manifest_of(path).write_text('not a hash\n')


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (flip, 'is damaged: its sha256 is'),
        (truncate, 'is damaged: its sha256 is'),
        (empty, 'is damaged: its sha256 is'),
        (unlisted(flip), 'a checksum inside it does not agree'),
        (unlisted(truncate), 'cannot be loaded: it is damaged'),
        (unlisted(empty), 'cannot be loaded: it is damaged'),
        (strip, 'has no optimizer'),
        (bare, 'has no meta, optimizer, message_hub'),
        (rename, 'is of iteration 7, which its name contradicts'),
        (shrink_average, 'averages other tensors'),
        (a_list, 'holds a list'),
        (spoil_manifest, 'holds no sha256'),
    ],
    ids=lambda x: getattr(x, '__name__', ''),
)
def test_what_is_not_whole_is_refused_and_an_older_one_named(work_dir, capsys, spoil, words):
    newest, older = work_dir / 'iter_2.pth', work_dir / 'iter_1.pth'
    spoil(newest)
    before = {p: p.read_bytes() for p in work_dir.glob('iter_*')}
    assert verify(work_dir) == 1
    said = capsys.readouterr()
    assert 'NOT WHOLE' in said.out.splitlines()[2]
    assert words in said.err
    assert train.main([CONFIG, '--work-dir', str(work_dir), '--resume']) == 2
    said = capsys.readouterr().err
    assert words in said
    assert f'Another one is whole, {older} (its sha256 agrees): go on from there with --resume {older}' in said
    assert {p: p.read_bytes() for p in work_dir.glob('iter_*')} == before
    check_start(small_config(work_dir, **OPTIONS, resume=True, load_from=str(older)))


def test_none_is_whole(work_dir):
    for path in saved_checkpoints(work_dir):
        flip(path)
    with pytest.raises(ConfigError, match=r'No other checkpoint in .* is whole: start again with another --work-dir'):
        check_start(small_config(work_dir, resume=True))


def test_without_a_manifest_a_run_goes_on(work_dir, capsys):
    manifest_of(work_dir / 'iter_2.pth').unlink()
    check_start(small_config(work_dir, resume=True))
    flip(work_dir / 'iter_2.pth')
    manifest_of(work_dir / 'iter_1.pth').unlink()
    with pytest.raises(ConfigError, match=r'iter_1\.pth \(it loads, and has no sha256 beside it\)'):
        check_start(small_config(work_dir, resume=True))


def test_weights_to_start_from_and_to_export_are_compared_too(work_dir, tmp_path, capsys):
    path = work_dir / 'iter_2.pth'
    flip(path)
    with pytest.raises(ConfigError, match='is damaged'):
        check_start(small_config(tmp_path / 'new', load_from=str(path)))
    assert export.main([str(path), str(tmp_path / 'out')]) == 2
    assert 'is damaged' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    bare(work_dir / 'iter_1.pth')
    check_start(small_config(tmp_path / 'new', load_from=str(work_dir / 'iter_1.pth')))


def test_going_back_takes_the_manifest_along(work_dir):
    assert set_aside_later(work_dir, 1) == ['iter_2.set_aside_0.pth']
    aside = work_dir / 'iter_2.set_aside_0.pth'
    assert not manifest_of(work_dir / 'iter_2.pth').exists()
    assert inspect(aside).sha256 == 'agrees'
    subprocess.run(['sha256sum', '--check', '--strict', f'{aside.name}.sha256'], cwd=work_dir, check=True)


def test_retention_counts_only_its_own(tmp_path):
    for name in ('iter_3', 'iter_20', 'iter_100', 'best', 'iter_99_best', 'iter_200.set_aside_0'):
        write_checkpoint(tmp_path / f'{name}.pth', {'state_dict': {}})
    remove_oldest(tmp_path, keep=1)
    left = ['best.pth', 'iter_100.pth', 'iter_200.set_aside_0.pth', 'iter_99_best.pth']
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*left, *(f'{n}.sha256' for n in left)])


def checkpoint_hook(runner):
    return next(h for h in runner.hooks if type(h).__name__ == 'PolicyCheckpointHook')


def test_a_full_disk_stops_the_run_and_says_how_much_is_missing(finished, work_dir, monkeypatch):
    monkeypatch.setattr(finished, '_work_dir', str(work_dir))
    before = {p.name: p.read_bytes() for p in work_dir.iterdir() if p.is_file()}
    (work_dir / '.iter_3.pth.partial').symlink_to('/dev/full')
    newest = work_dir / 'iter_2.pth'
    size = newest.stat().st_size / 1e3
    with pytest.raises(RunStopped) as raised:
        checkpoint_hook(finished).save(finished, 3)
    said = str(raised.value)
    assert 'iter_3.pth could not be written: No space left on device; it takes about' in said
    takes = said.partition('takes about ')[2].split()
    assert takes[1] == 'kB,'
    assert float(takes[0]) == pytest.approx(size, rel=0.2)
    for words in (
        ' free.',
        'iter_2.pth, written before, is complete',
        'keep (now 2',
        f'--resume {work_dir}/iter_2.pth',
    ):
        assert words in said
    assert {p.name: p.read_bytes() for p in work_dir.iterdir() if p.is_file()} == before


def test_what_could_not_be_loaded_again_is_not_kept(finished, work_dir, monkeypatch):
    monkeypatch.setattr(finished, '_work_dir', str(work_dir))
    monkeypatch.setattr(finished.train_dataloader.dataset, 'metainfo', {'place': Path('x')}, raising=False)
    with pytest.raises(RunStopped, match=r'iter_3\.pth was not kept.*pathlib'):
        checkpoint_hook(finished).save(finished, 3)
    assert [p.name for p in saved_checkpoints(work_dir)] == ['iter_1.pth', 'iter_2.pth']
    assert not list(work_dir.glob('.*.partial'))


@pytest.mark.parametrize('old', ['another iteration', 'the same iteration'])
def test_death_at_any_moment_leaves_a_whole_checkpoint(tmp_path, old):
    """Killed before each single change of the folder in turn, until one process survives all of them."""
    first = 'iter_2.pth' if old == 'the same iteration' else 'iter_1.pth'
    states = set()
    for step in range(1, 20):
        folder = tmp_path / str(step)
        folder.mkdir()
        content = {'state_dict': {'x': torch.zeros(3)}, 'optimizer': {'state': {}, 'param_groups': []}}
        content['message_hub'] = {k: {} for k in ('log_scalars', 'runtime_info', 'resumed_keys')}
        write_checkpoint(folder / first, {**content, 'meta': {'iter': int(first[5])}})
        child = os.fork()
        if child == 0:
            die_at(step)
            write_checkpoint(folder / 'iter_2.pth', {**content, 'meta': {'iter': 2}})
            write_atomically(folder / 'last_checkpoint', lambda p: p.write_text('iter_2.pth'))
            remove_oldest(folder, keep=1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = [inspect(path) for path in saved_checkpoints(folder)]
        assert find_latest(folder) is not None
        assert [x.problem for x in found] == [None] * len(found), step
        states.add(tuple((x.path.name, x.sha256) for x in found))
        if os.waitstatus_to_exitcode(status) == 0:
            assert states >= {((first, 'agrees'),), (('iter_2.pth', 'agrees'),)}
            assert any('none' in sums for state in states for sums in state), 'died between the file and its sha256'
            assert step > 8
            return
        assert os.waitstatus_to_exitcode(status) == 9
    pytest.fail('the process never came through')


def die_at(step):
    """End this process, as kill -9 would, before the call number ``step`` that changes the folder or flushes."""
    left = [step]

    def deadly(call):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return call(*args, **kwargs)

        return counted

    for name in ('replace', 'rename', 'unlink', 'fsync'):
        setattr(os, name, deadly(getattr(os, name)))


def in_namespace(script, *arguments):
    """Run a shell script that may mount file systems of its own; they vanish with it."""
    return subprocess.run(
        ['unshare', '-Urm', 'bash', '-c', script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_run_survives_a_file_system_that_fills_up(finished, tmp_path):
    """A real one, with room for one checkpoint and a half."""
    place = tmp_path / 'disk'
    place.mkdir()
    one = (Path(finished.work_dir) / 'iter_2.pth').stat().st_size
    mount = f'mount -t tmpfs -o size={int(1.6 * one)} tmpfs {shlex.quote(str(place))}'
    if in_namespace(mount).returncode:
        pytest.skip('no file system can be mounted here: user namespaces are not permitted')
    options = {**SMALL, **{k.replace('__', '.'): v for k, v in OPTIONS.items()}, 'default_hooks.checkpoint.keep': 1}
    # Pictures and TensorBoard's files take room as well.
    options |= {'visualizer.vis_backends': '[]', 'default_hooks.report.gallery': 1}
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(place / 'run')]
    train = shlex.join([*command, '--cfg-options', *(f'{k}={v}' for k, v in options.items())])
    done = in_namespace(f'{mount} && {train}; code=$?; cp -r {shlex.quote(str(place))}/run "$0"; exit $code', tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert 'iter_2.pth could not be written: No space left on device; it takes about' in done.stderr
    assert 'iter_1.pth, written before, is complete' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not list((tmp_path / 'run').glob('.*'))
    assert verify(tmp_path / 'run') == 0
    assert find_latest(tmp_path / 'run') == str(tmp_path / 'run' / 'iter_1.pth')


RANK_0_IS_FULL = """
import resource

from mmengine.dist import get_rank
from mmengine.hooks import Hook


class Full(Hook):
    def before_train(self, runner):
        if get_rank() == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        next(h for h in runner.hooks if type(h).__name__ == 'PolicyCheckpointHook').save(runner, 0)
"""


@pytest.mark.slow
def test_all_ranks_stop_where_rank_0_cannot_write(tmp_path):
    (tmp_path / 'full.py').write_text(RANK_0_IS_FULL)
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = ['{CONFIG}']\ncustom_hooks = [dict(type='full.Full')]\n")
    options = {**SMALL, 'evaluation': None, 'batch.updates_per_iteration': 1, 'train_cfg.max_iters': 1}
    code, said = launch(config, '--work-dir', str(tmp_path / 'run'), options=options)
    assert code != 0
    assert said.count('error: ') == 2
    assert said.count('iter_0.pth could not be written: File too large') == 2
    assert not list((tmp_path / 'run').glob('*.pth*')) + list((tmp_path / 'run').glob('.*'))


@pytest.mark.slow
def test_all_ranks_refuse_a_damaged_checkpoint(work_dir):
    """Rank 0 reads all of it; the others, which see nothing wrong, learn what it found."""
    flip(work_dir / 'iter_2.pth')
    options = {**SMALL, **{k.replace('__', '.'): v for k, v in OPTIONS.items()}, 'batch.updates_per_iteration': 1}
    code, said = launch(CONFIG, '--work-dir', str(work_dir), '--resume', options=options)
    assert code != 0
    assert said.count('is damaged: its sha256 is') == 2
    assert said.count(f'go on from there with --resume {work_dir}/iter_1.pth') == 2
