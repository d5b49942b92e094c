import pytest
import torch

from vipo.rewards import CLIPScoreReward

PROMPTS = ['a small red circle', 'a large blue square above a ring', 'Blue {ring}', 'a red circle at the left ' * 9]


@pytest.fixture(scope='module')
def options(twin_options):
    return twin_options(CLIPScoreReward)


def cosine(out):
    return torch.cosine_similarity(out.image_embeds.double(), out.text_embeds.double()).float()


@pytest.mark.parametrize(
    ('variant', 'formula'),
    [
        ('cosine', lambda out: cosine(out)),
        ('torchmetrics', lambda out: 100 * torch.maximum(cosine(out), torch.zeros(4))),
        ('paper', lambda out: 2.5 * torch.maximum(cosine(out), torch.zeros(4))),
        ('logit', lambda out: out.logits_per_image.diagonal() / 30),
    ],
)
@pytest.mark.parametrize('size', [(28, 28), (31, 28), (61, 85)])
def test_variants_follow_their_formulas(options, their_clip, pictures, variant, formula, size):
    x = pictures(*size)
    out = their_clip(x, PROMPTS)
    assert cosine(out).min() < -0.01 < 0.01 < cosine(out).max(), 'both signs, or the variants are alike'
    scores = CLIPScoreReward(variant, **options)(x[:, :, None], PROMPTS).scores
    torch.testing.assert_close(scores, formula(out), atol=1e-4, rtol=0)


def test_template_goes_around_each_prompt(options, their_clip, pictures):
    """A brace in a prompt stays one."""
    x = pictures()
    theirs = cosine(their_clip(x, [f'A photo depicts {p}' for p in PROMPTS]))
    reward = CLIPScoreReward(**options, template='A photo depicts {}')
    torch.testing.assert_close(reward(x[:, :, None], PROMPTS).scores, theirs, atol=1e-4, rtol=0)
    assert (theirs - cosine(their_clip(x, PROMPTS))).abs().max() > 1e-2


@pytest.mark.parametrize('template', ['A photo of', '{} and {}', ''])
def test_template_needs_one_place(options, template):
    with pytest.raises(ValueError, match=r'reward\.template'):
        CLIPScoreReward(**options, template=template)


def test_unknown_variant_is_refused(options):
    with pytest.raises(
        ValueError, match=r"reward\.variant must be one of \('cosine', 'torchmetrics', 'paper', 'logit'"
    ):
        CLIPScoreReward('cosinus', **options)
