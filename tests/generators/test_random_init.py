"""A generator with random weights: everything but the numbers is that of a loaded one."""

import pytest
import torch

from tests.generators.families import FAMILIES, PROMPTS, start
from vipo.engine.hub import needed


def described(generator):
    parts = [*generator._networks.items(), ('vae', generator.pipe.vae)]
    return {
        f'{part}.{name}': (tuple(p.shape), p.dtype, p.requires_grad)
        for part, network in parts
        for name, p in network.named_parameters()
    }


@pytest.mark.parametrize('name', FAMILIES)
def test_weights_have_the_shapes_and_dtypes_of_loaded_ones(name, twin_folder):
    family, folder = FAMILIES[name], twin_folder(FAMILIES[name].twin)
    options = {'lora': {'rank': 2}, 'dtype': 'bfloat16', **family.guided}
    random, loaded = family.build(folder, init='random', **options), family.build(folder, **options)
    assert described(random) == described(loaded)
    assert random.pipe.scheduler.__class__ is loaded.pipe.scheduler.__class__
    ours, theirs = random.encode(PROMPTS).tensors, loaded.encode(PROMPTS).tensors
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in theirs.items()}


@pytest.mark.parametrize('name', FAMILIES)
def test_it_samples_and_learns(name, twin_folder):
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), init='random', lora={'rank': 2}, **family.unguided)
    conditioning = generator.encode(PROMPTS)
    for key, value in generator.encode(PROMPTS[::-1]).tensors.items():
        assert torch.equal(value.flip(0), conditioning.tensors[key]), 'an encoding follows from its text alone'
    v = generator.velocity(start(generator), 0.9, conditioning)
    assert v.isfinite().all()
    v.square().mean().backward()
    assert any(p.grad.abs().max() > 0 for p in generator.trainable_parameters())
    pixels = generator.decode(start(generator))
    assert pixels.isfinite().all()
    assert len(pixels) == len(PROMPTS)


@pytest.mark.parametrize('name', FAMILIES)
def test_encodings_by_the_pipelines_own_names(name, twin_folder):
    """The pipeline draws the same from our encodings as from the prompts."""
    family = FAMILIES[name]
    generator = family.build(twin_folder(family.twin), **family.guided)
    common = {'num_inference_steps': 2, 'output_type': 'pt', **generator.pipeline_arguments()}
    prompts = {'prompt': PROMPTS, 'negative_prompt': [''] * len(PROMPTS)}
    outputs = [
        generator.pipe(**texts, **common, generator=torch.Generator().manual_seed(0))[0]
        for texts in (prompts, generator.pipeline_texts(generator.encode(PROMPTS)))
    ]
    torch.testing.assert_close(*outputs)


def test_nothing_has_to_be_fetched_for_a_known_architecture():
    generator = {'type': 'FluxGenerator', 'pretrained': 'black-forest-labs/FLUX.1-dev'}
    assert [model for _, model, *_ in needed({'generator': generator})] == ['black-forest-labs/FLUX.1-dev']
    assert list(needed({'generator': {**generator, 'init': 'random'}})) == []
    unknown = {**generator, 'init': 'random', 'pretrained': 'somebody/flux-of-their-own'}
    assert [model for _, model, *_ in needed({'generator': unknown})] == ['somebody/flux-of-their-own']


def test_unknown_init(twin_folder):
    with pytest.raises(ValueError, match=r"generator\.init must be one of .*'random'.*got 'radnom'"):
        FAMILIES['flux'].build(twin_folder('flux'), init='radnom')
