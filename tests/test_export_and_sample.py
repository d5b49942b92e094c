"""From a checkpoint to files that plain diffusers and people can use."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image

from tests.engine.conftest import run, small_config
from tools import export, sample
from vipo.assets import resolve
from vipo.visualization.samples import write_samples

PROMPT = 'a small red circle at the left on a plain gray background'


@pytest.fixture(scope='module', params=['lora', 'full'])
def finished(request, tmp_path_factory):
    options = {'generator__lora__rank': 4, 'generator__lora__alpha': 8} if request.param == 'lora' else {}
    runner = run(small_config(tmp_path_factory.mktemp(request.param), optim_wrapper__optimizer__lr=1e-3, **options))
    return request.param, runner


def picture(pipe):
    return pipe(
        [PROMPT],
        height=64,
        width=64,
        guidance_scale=1.0,
        num_inference_steps=4,
        sigmas=torch.linspace(1, 0.25, 4).tolist(),
        latents=torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(3)),
        max_sequence_length=16,
        output_type='pt',
    ).images


@pytest.mark.parametrize('raw', [False, True], ids=['averaged', 'raw'])
def test_export_is_what_the_run_evaluated(finished, raw, tmp_path, capsys):
    kind, runner = finished
    arguments = [f'{runner.work_dir}/iter_2.pth', str(tmp_path / 'out'), *(['--raw'] if raw else [])]
    assert export.main(arguments) == 0
    said = capsys.readouterr().out
    pipe = StableDiffusion3Pipeline.from_pretrained(resolve('vipo://tiny-sd3'), dtype=torch.float32)
    before = picture(pipe)
    if kind == 'lora':
        assert 'pytorch_lora_weights.safetensors' in said
        pipe.load_lora_weights(tmp_path / 'out')
    else:
        pipe.register_modules(transformer=SD3Transformer2DModel.from_pretrained(tmp_path / 'out' / 'transformer'))
    after = picture(pipe)
    ours = runner.components.generator.pipe
    if raw:
        wanted = picture(ours)
    else:
        with runner.components.ema.applied():
            wanted = picture(ours)
    torch.testing.assert_close(after, wanted, atol=1e-5, rtol=0)
    assert (after - before).abs().max() > 1e-3
    text = (tmp_path / 'out' / 'README.md').read_text()
    for words in ('StableDiffusion3Pipeline.from_pretrained', 'HPSReward', 'iter_2.pth', 'max_iters=2'):
        assert words in text


def test_export_never_overwrites(finished, tmp_path, capsys):
    _, runner = finished
    (tmp_path / 'mine').touch()
    assert export.main([f'{runner.work_dir}/iter_2.pth', str(tmp_path)]) == 2
    assert 'in use' in capsys.readouterr().err
    assert export.main([f'{runner.work_dir}/iter_9.pth', str(tmp_path / 'new')]) == 2
    assert 'does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


def test_sample_with_and_without_a_checkpoint(finished, tmp_path, capsys):
    _, runner = finished
    config = str(next(Path(runner.work_dir).glob('*.py')))
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text(f'{PROMPT}\na large blue ring at the top on a plain navy background\n')
    common = ['--steps', '2', '--seeds', '0', '1']
    assert sample.main([config, '--prompts', str(prompts), '--out', str(tmp_path / 'a'), *common]) == 0
    assert 'gallery.png' in capsys.readouterr().out
    assert (
        sample.main(
            [config, f'{runner.work_dir}/iter_2.pth', '--prompts', PROMPT, '--out', str(tmp_path / 'b'), *common]
        )
        == 0
    )
    before, after = ([np.asarray(Image.open(p)) for p in sorted((tmp_path / x).glob('0*.png'))] for x in 'ab')
    assert len(before) == 4
    assert len(after) == 2
    assert before[0].shape == (64, 64, 3)
    assert not np.array_equal(before[0], before[1]), 'another seed, another sample'
    assert not np.array_equal(before[0], after[0]), 'the checkpoint was loaded'
    close = np.abs(before[0].astype(int) - after[0].astype(int)).mean()
    assert close < np.abs(before[0].astype(int) - before[1].astype(int)).mean(), 'the same seed'


def test_clip_is_read_back_by_decord(tmp_path):
    import decord

    clip = np.zeros((1, 3, 9, 64, 96), np.uint8)
    clip[0, 0, :5], clip[0, 2, 5:] = 200, 200  # five red frames, then four blue ones
    write_samples(clip, ['a caption'], tmp_path, fps=8)
    reader = decord.VideoReader(str(tmp_path / '0000.mp4'))
    frames = reader.get_batch(range(len(reader))).asnumpy().astype(int)
    assert frames.shape == (9, 64, 96, 3)
    assert reader.get_avg_fps() == pytest.approx(8)
    assert frames[0].mean((0, 1)) == pytest.approx([200, 0, 0], abs=12)
    assert frames[8].mean((0, 1)) == pytest.approx([0, 0, 200], abs=12)
    strip = np.asarray(Image.open(tmp_path / '0000_strip.png'))
    assert strip.shape == (64, 9 * 96, 3)
    assert (strip[:, 0] == [200, 0, 0]).all()
    assert (strip[:, -1] == [0, 0, 200]).all()


def test_card_of_somebody_elses_map_and_of_two_networks(tmp_path):
    from mmengine.config import Config

    generator = SimpleNamespace(pipeline_class='WanPipeline', _networks={'transformer': None, 'transformer_2': None})
    cfg = Config(
        {
            'generator': {'pretrained': 'Wan-AI/Wan2.2-T2V-A14B-Diffusers', 'lora': {'rank': 4}},
            'reward': {'type': 'HPSReward'},
            'structurer': {'type': 'mine.MyMap'},
        }
    )
    text = export.card(cfg, tmp_path / 'iter_1.pth', generator, averaged=True)
    assert '`mine.MyMap`' in text
    assert "pipe.load_lora_weights('path/to/this/folder/transformer_2', load_into_transformer_2=True)" in text
    assert 'base_model: Wan-AI/Wan2.2-T2V-A14B-Diffusers' in text
