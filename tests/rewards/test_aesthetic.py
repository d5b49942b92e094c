import hashlib
from pathlib import Path

import pytest
import torch

from vipo.rewards import AestheticReward
from vipo.rewards.aesthetic import _FILE, _SHA256
from vipo.rewards.linear_head import LinearHead

PROMPTS = ['', 'a', 'b', 'c']


@pytest.fixture(scope='module')
def options(twin_options):
    return twin_options(AestheticReward)


@pytest.mark.parametrize('size', [(28, 28), (31, 28), (61, 85)])
def test_score_is_layer_after_layer_on_the_unit_vector(options, their_clip, pictures, size):
    x = pictures(*size)
    state = torch.load(options['head'])
    # The published code crops with torchvision.
    theirs = their_clip(x, PROMPTS, offset='round').image_embeds
    torch.testing.assert_close(theirs.norm(dim=-1), torch.ones(4))
    for i in (0, 2, 4, 6, 7):
        theirs = theirs @ state[f'layers.{i}.weight'].T + state[f'layers.{i}.bias']
    torch.testing.assert_close(
        AestheticReward(**options)(x[:, :, None], PROMPTS).scores, theirs[:, 0], atol=1e-4, rtol=0
    )


def test_folded_head_is_the_head(normal):
    """At the published width, against torch's own forward pass in float64."""
    head = LinearHead(768).eval().requires_grad_(False)
    weight, bias = head.fold()
    x = normal(64, 768)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(x @ weight + bias, head.double().layers(x.double())[:, 0].float(), atol=1e-5, rtol=0)


def test_text_tower_is_let_go(options):
    model = AestheticReward(**options).towers.model
    assert not any(name.startswith('text') for name, _ in model.named_parameters())


def test_no_head_says_where_it_lies(options):
    with pytest.raises(ValueError, match=rf'{_FILE[:4]}.*3\.7 MB.*https://github\.com/.*reward\.head=/path/to/'):
        AestheticReward(pretrained=options['pretrained'])


def test_file_of_the_published_name_must_have_the_published_bytes(options, tmp_path):
    path = tmp_path / _FILE
    path.write_bytes(Path(options['head']).read_bytes())
    for head in (path, tmp_path):
        with pytest.raises(ValueError, match=f'has sha256 .* instead of {_SHA256}'):
            AestheticReward(**{**options, 'head': str(head)})


def test_own_head_of_known_digest(options, tmp_path):
    digest = hashlib.sha256(Path(options['head']).read_bytes()).hexdigest()
    AestheticReward(**{**options, 'sha256': digest})
    path = tmp_path / _FILE
    path.write_bytes(Path(options['head']).read_bytes())
    AestheticReward(**{**options, 'head': str(path), 'sha256': digest.upper()})
    with pytest.raises(ValueError, match=f'{digest} instead of {"0" * 64}'):
        AestheticReward(**{**options, 'sha256': '0' * 64})


def test_head_of_another_clip_is_refused(options, tmp_path):
    torch.save(LinearHead(25).state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(ValueError, match=r'layers\.0\.weight has shape \(1024, 25\) instead of \(1024, 24\)'):
        AestheticReward(**{**options, 'head': str(tmp_path / 'wide.pth')})
