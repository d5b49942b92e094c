"""Every family, trained by the loop itself, exported, and run by plain diffusers: the same picture."""

import shutil

import diffusers
import pytest
import torch

from tests.engine.conftest import run, small_config
from tests.generators.families import FAMILIES, sample, start

#: Layers without a gradient: the last block of Stable Diffusion 3 gives no text out, so nothing comes of its query.
IDLE = {'sd3': ('transformer_blocks.1.attn.add_q_proj', 'transformer_blocks.1.attn.norm_added_q')}


def brightness(pixels, prompts, metadata):
    """A reward that needs no model and knows clips."""
    return pixels.mean((1, 2, 3, 4)).tolist()


def train(family, folder, work_dir, **options):
    """The generator of a run of two policy iterations, in which every step but the last is trained."""
    cfg = small_config(
        work_dir,
        generator={
            '_delete_': True,
            'type': family.adapter.__name__,
            'pretrained': folder,
            'max_sequence_length': 16,
            **family.options,
            **family.guided,
            **options,
        },
        reward={'_delete_': True, 'type': 'FunctionReward', 'function': f'{__name__}.brightness'},
        eval_rewards={'_delete_': True},
        rollout__selector={'_delete_': True, 'type': 'RandomFraction', 'fraction': 1.0},
        # Large steps, for a difference that shows in pixels.
        optim_wrapper__optimizer__lr=1e-2 if 'lora' in options else 2e-3,
        batch__micro_batch_size=4,
        evaluation=None,
        ema=None,
    )
    runner = run(cfg)
    assert runner.iter == 2
    return runner.components.generator


def plain(family, folder, export, lora):
    """Diffusers' own pipeline with what was exported, as a user loads it."""
    cls = getattr(diffusers, family.adapter.pipeline_class)
    if lora:
        pipe = cls.from_pretrained(folder)
        pipe.load_lora_weights(export)
        if (export / 'transformer_2').exists():
            pipe.load_lora_weights(export / 'transformer_2', load_into_transformer_2=True)
    else:
        whole = export.parent / 'whole'
        shutil.copytree(folder, whole)
        for part in export.iterdir():
            shutil.rmtree(whole / part.name)
            shutil.copytree(part, whole / part.name)
        pipe = cls.from_pretrained(whole)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize('lora', [True, False], ids=['lora', 'full'])
@pytest.mark.parametrize('name', FAMILIES)
def test_what_was_trained_gives_the_same_picture_in_plain_diffusers(name, lora, twin_folder, tmp_path):
    family, folder = FAMILIES[name], twin_folder(FAMILIES[name].twin)
    options = {'lora': {'rank': 4, 'alpha': 8}} if lora else {}
    generator = train(family, folder, tmp_path / 'run', **options)
    untrained = family.build(folder, **family.guided, **options)
    for network, before in zip(generator._networks.values(), untrained._networks.values(), strict=True):
        parameters = dict(network.named_parameters())
        trainable = {n for n, p in before.named_parameters() if p.requires_grad}
        moved = {n for n in trainable if not torch.equal(parameters[n], before.get_parameter(n))}
        assert moved == {n for n in trainable if not n.startswith(IDLE.get(name, ()))}
        assert all(parameters[n].abs().max() > 1e-3 for n in moved if 'lora_B' in n), 'adapters as they began'
    generator.save_pretrained(tmp_path / 'export')
    noise = start(generator)
    before = family.run(untrained, noise, 'pt')
    trained = generator.pipe
    generator.pipe = plain(family, folder, tmp_path / 'export', lora)
    theirs = family.run(generator, noise, 'pt')
    sigmas, generator.pipe = generator.pipe.scheduler.sigmas, trained
    ours = generator.decode(sample(generator, noise, sigmas))
    torch.testing.assert_close(theirs.clamp(0, 1), ours, atol=1e-5, rtol=0)
    assert (theirs - before).abs().max() > 0.01
