"""The benchmarks run, and their figures hang together; what the figures are is the machine's affair."""

import json

import pytest
import torch

from tools.benchmark import main
from tools.benchmarks.generators import FAMILIES
from tools.benchmarks.rewards import REWARDS
from tools.benchmarks.structurer import with_falloff
from vipo.generators.twins import TWINS


def test_every_twin_can_be_compared():
    assert set(FAMILIES) == set(TWINS)


@pytest.mark.slow
@pytest.mark.parametrize('name', FAMILIES)
def test_figures_of_a_family(name, tmp_path, capsys):
    out = tmp_path / 'figures.json'
    main(['generators', '--families', name, '--samples', '2', '--steps', '3', '--repeats', '1', '--out', str(out)])
    figures = json.loads(out.read_text())[name]
    assert all(value > 0 for key, value in figures.items() if key != 'outside the model')
    assert 0 < figures['outside the model'] < 1
    assert figures['rollout / pipeline'] == pytest.approx(
        figures['rollout, samples/s'] / figures['pipeline, samples/s'], rel=1e-6
    )
    assert 'rollout / pipeline' in capsys.readouterr().out


@pytest.mark.slow
def test_every_reward_in_batches_and_alone(tmp_path, capsys):
    out = tmp_path / 'figures.json'
    main(['rewards', '--pictures', '2', '--repeats', '1', '--side', '32', '--out', str(out)])
    figures, said = json.loads(out.read_text()), capsys.readouterr().out
    left_out = {name for name in REWARDS if name not in figures}
    assert left_out <= {'ocr'}
    assert all(f"{name:32s} left out: config key '{name}': " in said and 'vipo[ocr]' in said for name in left_out)
    for row in figures.values():
        assert all(value > 0 for value in row.values())
        assert row['ratio'] == pytest.approx(row['batch, ms'] / row['one by one, ms'])


@pytest.mark.slow
def test_map_stage(tmp_path):
    out = tmp_path / 'figures.json'
    small = '--frames 5 --height 48 --width 64 --repeats 1 --backbone vipo://tiny-dinov2'
    main(['structurer', *small.split(), '--out', str(out)])
    figures = json.loads(out.read_text())
    assert figures['correlation with the plain map'] > 0.99
    assert figures['map alone, times faster'] == pytest.approx(
        figures['plain, map alone, s'] / figures['ours, map alone, s']
    )


def test_features_whose_components_fall_off():
    features = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0)).cumsum(1)
    tokens = with_falloff(features, 2.0).permute(0, 2, 3, 1).flatten(0, 2)
    strengths = torch.linalg.svdvals(tokens - tokens.mean(0)).square() / len(tokens)
    torch.testing.assert_close(strengths, torch.arange(1.0, 7) ** -2)


def test_checkpoint_figures(tmp_path):
    out = tmp_path / 'figures.json'
    main(['checkpoint', '--gigabytes', '0.01', '--repeats', '1', '--folder', str(tmp_path), '--out', str(out)])
    figures = json.loads(out.read_text())
    assert figures['size, GB'] == pytest.approx(0.067, abs=0.001), 'one tensor of 4096 x 4096'
    assert all(value > 0 for value in figures.values())
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.slow
def test_full_size_figures_with_random_weights(tmp_path):
    """A config's generator without its weights: here over the architecture of a folder."""
    from vipo.generators.twins import save_twin

    config, out = tmp_path / 'mine.py', tmp_path / 'figures.json'
    config.write_text(
        f"generator = dict(type='FluxGenerator', pretrained={save_twin('flux', tmp_path / 'twin')!r}, resolution=64,\n"
        '    max_sequence_length=16, lora=dict(rank=2), gradient_checkpointing=True)\n'
    )
    options = '--init random --samples 2 --steps 3 --repeats 1 --cfg-options generator.lora.rank=4'
    main(['generators', '--config', str(config), '--out', str(out), *options.split()])
    figures = json.loads(out.read_text())['mine']
    assert figures['rollout, planned MiB'] == pytest.approx(figures['rollout, peak MiB'], rel=0.3)
    assert figures['update, planned MiB'] > 0


#: Most time of a batch for that of single calls; what was measured stands in docs/rewards.md. A loaded machine moves
#: VideoAlign's 0.28 the most.
BOUNDS = dict.fromkeys(('pickscore', 'clipscore', 'aesthetic', 'imagereward', 'hps', 'hpsv3'), 1 / 3)
BOUNDS |= {'videoalign': 0.4, 'embedded': 0.5}


def too_slow(out, bounds, options):
    """Ratios above their bounds; what another program on this machine may have slowed is measured up to three times."""
    slow = bounds
    for _ in range(3):
        main(['rewards', '--rewards', *slow, *options.split(), '--out', str(out)])
        figures = json.loads(out.read_text())
        assert figures.keys() == slow.keys()
        slow = {name: row['ratio'] for name, row in figures.items() if row['ratio'] > bounds[name]}
        if not slow:
            break
    return slow


@pytest.mark.slow
def test_batch_of_32_pictures_costs_less_than_a_third_of_single_calls(tmp_path):
    assert too_slow(tmp_path / 'figures.json', BOUNDS, '--pictures 32 --repeats 5') == {}


@pytest.mark.slow
def test_batch_is_no_slower_than_single_calls_where_frames_are_as_large_as_published(tmp_path):
    """Arithmetic is most of the time there; measured below 1, and up to 2.1 while all 32 were prepared at once."""
    bounds = {'hpsv3': 1.4, 'videoalign': 1.4}
    assert too_slow(tmp_path / 'figures.json', bounds, '--area 200704 --repeats 2') == {}
