"""A model counts as present when every file that will be loaded is in the cache, and not before."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from vipo.engine import hub
from vipo.engine.hub_cache import lacking
from vipo.generators import SD3Generator
from vipo.generators.twins import build_twin
from vipo.registry import ConfigError
from vipo.rewards import HPSReward

COMMIT = '0123456789abcdef0123456789abcdef01234567'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """``cache(model, folder)`` puts a folder into an empty cache as a finished download; gives the snapshot."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)

    def put(model, folder):
        repo = tmp_path / 'hub' / f'models--{model.replace("/", "--")}'
        snapshot, blobs = repo / 'snapshots' / COMMIT, repo / 'blobs'
        (repo / 'refs').mkdir(parents=True)
        (repo / 'refs' / 'main').write_text(COMMIT)
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        for number, path in enumerate(sorted(p for p in Path(folder).rglob('*') if p.is_file())):
            blob, link = blobs / f'{number:040x}', snapshot / path.relative_to(folder)
            shutil.copyfile(path, blob)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        return snapshot

    return put


def abort(file):
    """What a download leaves of a file when it is cut off: a part of it beside the blobs, and no link."""
    blob = file.resolve()
    blob.with_name(f'{blob.name}.incomplete').write_bytes(blob.read_bytes()[:-100])
    file.unlink()
    blob.unlink()


@pytest.fixture(scope='module')
def sharded(tmp_path_factory):
    """A pipeline whose transformer lies in several files with an index."""
    folder = tmp_path_factory.mktemp('twin') / 'sd3'
    build_twin('sd3').save_pretrained(folder, max_shard_size='100KB')
    assert len(list((folder / 'transformer').glob('*.safetensors'))) > 2
    return folder


def config(model='somebody/sd3'):
    return {'generator': {'type': 'SD3Generator', 'pretrained': model}}


def test_complete_pipeline_is_present_and_loads(cache, sharded):
    cache('somebody/sd3', sharded)
    assert lacking('somebody/sd3') == []
    hub.check_reach(config())
    generator = SD3Generator('somebody/sd3', resolution=64, max_sequence_length=16)
    local = SD3Generator(str(sharded), resolution=64, max_sequence_length=16)
    pairs = zip(generator.denoiser.parameters(), local.denoiser.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_missing_shard(cache, sharded):
    """More than 1 MiB of the model is there."""
    snapshot = cache('somebody/sd3', sharded)
    shard = next((snapshot / 'transformer').glob('*-00002-*.safetensors'))
    (snapshot / 'vae' / 'notes.txt').write_bytes(bytes(2**21))
    abort(shard)
    assert lacking('somebody/sd3') == [f'transformer/{shard.name}']
    with pytest.raises(ConfigError) as raised:
        hub.check_reach(config())
    assert 'HF_HUB_OFFLINE is set and the cache lacks transformer/diffusion_pytorch_model-00002-of' in str(raised.value)


@pytest.mark.parametrize(
    ('gone', 'wanted'),
    [
        ('vae/diffusion_pytorch_model.safetensors', 'vae/diffusion_pytorch_model.safetensors'),
        ('text_encoder_3/config.json', 'text_encoder_3/config.json'),
        ('scheduler/scheduler_config.json', 'scheduler/scheduler_config.json'),
        ('tokenizer_2/tokenizer.json', 'tokenizer_2/tokenizer.json'),
        ('model_index.json', 'its files'),
    ],
)
def test_one_file_that_is_not_there_yet(cache, sharded, gone, wanted):
    snapshot = cache('somebody/sd3', sharded)
    abort(snapshot / gone)
    assert lacking('somebody/sd3') == [wanted]


def test_link_whose_file_is_gone(cache, sharded):
    snapshot = cache('somebody/sd3', sharded)
    (snapshot / 'vae' / 'diffusion_pytorch_model.safetensors').resolve().unlink()
    assert lacking('somebody/sd3') == ['vae/diffusion_pytorch_model.safetensors']


def test_only_configs(cache, sharded):
    """As tools/plan.py leaves it: small files alone, indices of shards included."""
    snapshot = cache('somebody/sd3', sharded)
    for file in snapshot.rglob('*.safetensors'):
        abort(file)
    missing = lacking('somebody/sd3')
    folders = {name.split('/')[0] for name in missing}
    assert folders == {'transformer', 'vae', 'text_encoder', 'text_encoder_2', 'text_encoder_3'}
    assert sum(name.startswith('transformer/') for name in missing) > 2, 'every shard of the index'
    with pytest.raises(ConfigError, match=rf'and {len(missing) - 1} more'):
        hub.check_reach(config())


def test_nothing_at_all(cache):
    assert lacking('somebody/sd3') == ['its files']
    assert lacking('somebody/words', 'reward.tokenizer') == ['tokenizer.json']


@pytest.mark.parametrize(
    ('version', 'there', 'missing'),
    [
        ('v2.1', 'HPS_v2.1_compressed.pt', []),
        ('v2.1', 'HPS_v2_compressed.pt', ['HPS_v2.1_compressed.pt']),
        ('v2.0', 'HPS_v2_compressed.pt', []),
    ],
)
def test_single_file_of_a_repository(cache, tmp_path, version, there, missing):
    (tmp_path / 'files').mkdir()
    (tmp_path / 'files' / there).write_bytes(bytes(2**21))
    cache('xswu/HPSv2', tmp_path / 'files')
    ((_, model, files, _),) = hub.needed({'reward': {'type': 'HPSReward', 'version': version}})
    assert lacking(model, 'reward.checkpoint', files) == missing
    assert HPSReward.hub_files({'version': 'v9'}) == {}, 'the build explains that one'


def test_model_of_transformers(cache, tmp_path):
    from vipo.assets import resolve

    snapshot = cache('somebody/dinov2', resolve('vipo://tiny-dinov2'))
    assert lacking('somebody/dinov2', 'structurer.backbone.pretrained') == []
    abort(snapshot / 'model.safetensors')
    assert lacking('somebody/dinov2', 'structurer.backbone.pretrained') == ['model.safetensors']


def test_tokenizer_alone(cache, tmp_path):
    (tmp_path / 'files').mkdir()
    for name in ('vocab.json', 'merges.txt', 'tokenizer_config.json'):
        (tmp_path / 'files' / name).write_text('{}')
    snapshot = cache('somebody/words', tmp_path / 'files')
    assert lacking('somebody/words', 'reward.tokenizer') == []
    (snapshot / 'merges.txt').unlink()
    assert lacking('somebody/words', 'reward.tokenizer') == ['tokenizer.json']


def test_repository_whose_files_nobody_names(cache, tmp_path):
    (tmp_path / 'files').mkdir()
    (tmp_path / 'files' / 'reward.pth').write_bytes(bytes(1000))
    (tmp_path / 'files' / 'more.pth').write_bytes(bytes(1000))
    snapshot = cache('somebody/reward', tmp_path / 'files')
    assert lacking('somebody/reward', 'reward.checkpoint') == []
    abort(snapshot / 'more.pth')
    assert lacking('somebody/reward', 'reward.checkpoint') == ['its files']


def test_files_of_a_certain_commit(cache, tmp_path):
    """VideoAlign is taken from one commit: another one in the cache is not enough, and no branch has to be known."""
    (needed,) = hub.needed({'reward': {'type': 'VideoAlignReward'}})
    assert needed.revision is not None
    repo = tmp_path / 'hub' / 'models--KlingTeam--VideoReward'
    for commit, expected in (('0' * 40, needed.files), (needed.revision, [])):
        for name in needed.files:
            path = repo / 'snapshots' / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('x')
        found = lacking(needed.model, needed.key, needed.files, needed.revision)
        assert found == expected
