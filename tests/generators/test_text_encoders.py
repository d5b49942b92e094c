"""Text encoders that are incomplete are refused; transformers would fill them with random numbers."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.generators.families import FAMILIES


@pytest.fixture
def broken(twin_folder, tmp_path):
    """``broken(family, change)``: its twin with a weight of the first text encoder changed; and the weight's name."""

    def make(family, change):
        folder = tmp_path / 'model'
        shutil.copytree(twin_folder(family.twin), folder)
        file = folder / 'text_encoder' / 'model.safetensors'
        state = load_file(file)
        name = next(key for key in sorted(state) if key.endswith('.weight') and state[key].ndim == 2)
        change(state, name)
        save_file(state, file, metadata={'format': 'pt'})
        return str(folder), name

    return make


def drop(state, name):
    del state[name]


def reshape(state, name):
    state[name] = torch.zeros(3, 5)


@pytest.mark.parametrize('cached', [False, True])
@pytest.mark.parametrize(('change', 'word'), [(drop, 'missing'), (reshape, 'has shape')])
@pytest.mark.parametrize('name', FAMILIES)
def test_incomplete_text_encoder_is_refused(name, change, word, cached, broken, tmp_path):
    family = FAMILIES[name]
    folder, weight = broken(family, change)
    options = {'prompt_cache': str(tmp_path / 'cache')} if cached else {}
    message = rf'text_encoder does not fit the model of its config: .*{word}'
    with pytest.raises(ValueError, match=message) as error:
        family.build(folder, **family.unguided, **options).encode(['a'])
    assert weight in str(error.value)


def test_what_a_text_encoder_leaves_over_is_no_mistake(broken):
    """Published ones are often one tower of a larger checkpoint."""
    family = FAMILIES['sd3']
    folder, _ = broken(family, lambda state, name: state.update({'visual.weight': torch.zeros(3)}))
    family.build(folder, **family.unguided).encode(['a'])
