import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

from tests.rewards.conftest import Bomb
from vipo.assets import resolve
from vipo.rewards import HPSReward

TINY = 'vipo://tiny-hps'
FOLDER = Path(resolve(TINY))
SIZES = json.loads((FOLDER / 'open_clip_config.json').read_text())['model_cfg']
SIDE, CONTEXT = SIZES['vision_cfg']['image_size'], SIZES['text_cfg']['context_length']
PROMPTS = [
    'a small red circle at the left on a striped gray background',
    'a large blue square above a small green ring on a plain navy background',
    'Blue  ring',
    'a small red circle at the left ' * 4,
]


@pytest.fixture(scope='module')
def reward():
    return HPSReward(checkpoint=TINY)


@pytest.fixture(scope='module')
def their_score():
    """The same weights in open_clip's own model, torchvision's own transforms, and token ids cut and padded by hand."""
    model = open_clip.CLIP(**SIZES).eval()
    model.load_state_dict(load_file(FOLDER / 'open_clip_model.safetensors'))
    tokenizer = Tokenizer.from_file(str(FOLDER / 'tokenizer.json'))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = SIZES['text_cfg']['vocab_size'] - 1
    transform = Compose(
        [
            Resize(SIDE, InterpolationMode.BICUBIC, antialias=True),
            CenterCrop(SIDE),
            Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )

    def ids(prompt):
        found = tokenizer.encode(prompt).ids
        if len(found) > CONTEXT:
            found = [*found[: CONTEXT - 1], end]
        assert found.index(end) == len(found) - 1
        return found + [0] * (CONTEXT - len(found))

    @torch.no_grad()
    def score(pictures, prompts):
        image = model.encode_image(transform(pictures))
        text = model.encode_text(torch.tensor([ids(p) for p in prompts]))
        return torch.cosine_similarity(image.double(), text.double()).float()

    return score


@pytest.fixture
def pictures(normal):
    return lambda height=SIDE, width=SIDE, count=4: normal(count, 3, height, width).sigmoid()


@pytest.fixture
def copy(tmp_path):
    """A copy of the checkpoint's folder, and its tensors, to be spoiled."""
    folder = tmp_path / 'hps'
    shutil.copytree(FOLDER, folder)
    return folder, load_file(folder / 'open_clip_model.safetensors')


@pytest.mark.parametrize(
    'size', [(SIDE, SIDE), (SIDE, 2 * SIDE), (3 * SIDE + 1, 2 * SIDE + 5), (SIDE // 2, SIDE // 2 + 7), (101, SIDE)]
)
def test_score_is_open_clips(reward, their_score, pictures, size):
    x = pictures(*size)
    out = reward(x[:, :, None], PROMPTS)
    assert out.scores.dtype == torch.float32
    assert out.valid.all()
    torch.testing.assert_close(out.scores, their_score(x, PROMPTS), atol=1e-4, rtol=0)


def test_score_depends_on_both(their_score, reward, pictures):
    """The comparison with open_clip means nothing if all scores are alike."""
    x = pictures()
    scores = reward(x[:, :, None], PROMPTS).scores
    assert (scores - reward(1 - x[:, :, None], PROMPTS).scores).abs().max() > 1e-3
    assert (scores - reward(x[:, :, None], PROMPTS[::-1]).scores).abs().max() > 1e-3


def test_antialias_is_an_option(their_score, pictures):
    x = pictures(3 * SIDE, 3 * SIDE)
    without = HPSReward(checkpoint=TINY, antialias=False)(x[:, :, None], PROMPTS).scores
    assert (without - their_score(x, PROMPTS)).abs().max() > 1e-3


def test_clip_is_refused_with_the_way_out(reward, pictures):
    with pytest.raises(ValueError, match=r'clips of 2 frames.*FrameReward'):
        reward(torch.stack([pictures(), 1 - pictures()], dim=2), PROMPTS)


def test_batch_size_does_not_matter(reward, pictures):
    x = pictures()[:, :, None]
    pieces = HPSReward(checkpoint=TINY, batch_size=3)(x, PROMPTS).scores
    torch.testing.assert_close(pieces, reward(x, PROMPTS).scores, atol=1e-5, rtol=0)


def test_gradient_reaches_the_pixels(reward, pictures):
    x = pictures(SIDE + 20, SIDE).requires_grad_()
    before = reward.score_pictures(x, PROMPTS)
    before.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[:, :, 12:-12].abs().amax((1, 2, 3)).min() > 0
    step = 1e-2 * x.grad / x.grad.norm()
    gain = (reward.score_pictures(x + step, PROMPTS) - before).sum().item()
    assert gain == pytest.approx(1e-2 * x.grad.norm().item(), rel=0.2)


def test_weights_are_frozen(reward):
    assert not any(p.requires_grad for p in reward.towers.model.parameters())
    assert not reward.towers.model.training


@pytest.mark.parametrize('wrap', [lambda s: {'state_dict': s, 'epoch': 3}, lambda s: s], ids=['wrapped', 'bare'])
def test_pt_file_gives_the_same_scores(copy, reward, pictures, wrap):
    folder, state = copy
    state['attn_mask'] = torch.zeros(CONTEXT, CONTEXT)
    torch.save(wrap(state), folder / 'HPS_v2.1.pt')
    x = pictures()[:, :, None]
    scores = HPSReward(checkpoint=str(folder / 'HPS_v2.1.pt'))(x, PROMPTS).scores
    assert torch.equal(scores, reward(x, PROMPTS).scores)


@pytest.mark.parametrize(
    ('spoil', 'match'),
    [
        (lambda s: s.pop('visual.ln_post.bias'), r'missing vision_model\.post_layernorm\.bias'),
        (lambda s: s.pop('transformer.resblocks.1.attn.in_proj_weight'), r'missing .*1\.self_attn\.q_proj'),
        (lambda s: s.update({'visual.extra': torch.zeros(2)}), r'visual\.extra'),
        (
            lambda s: s.update({'transformer.resblocks.0.layer_norm1.weight': torch.zeros(2)}),
            'two tensors of the checkpoint would both become',
        ),
        (
            lambda s: s.update({'transformer.resblocks.1.attn.in_proj_bias': torch.zeros(7)}),
            r'in_proj_bias.* of shape \(7,\) is no fused projection',
        ),
        (lambda s: s.update({'visual.ln_post.scale': torch.zeros(2)}), r'unexpected .*post_layernorm\.scale'),
        (
            lambda s: s.update({'ln_final.weight': torch.zeros(7)}),
            r'final_layer_norm\.weight has shape \(7,\) instead of',
        ),
        (lambda s: s.update({'positional_embedding': torch.zeros(CONTEXT + 1, 8)}), r'position_embedding.*instead of'),
    ],
    ids=[
        'missing',
        'missing fused',
        'extra',
        'second name',
        'odd fused',
        'extra in a known layer',
        'wrong shape',
        'wrong context',
    ],
)
def test_keys_that_do_not_fit_are_refused(copy, spoil, match):
    folder, state = copy
    spoil(state)
    save_file(state, folder / 'open_clip_model.safetensors')
    with pytest.raises(ValueError, match=match):
        HPSReward(checkpoint=str(folder))


@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_truncated_file_is_refused(copy, suffix):
    folder, state = copy
    path = folder / f'cut.{suffix}'
    save_file(state, path) if suffix == 'safetensors' else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match='truncated'):
        HPSReward(checkpoint=str(path))


@pytest.mark.parametrize('wrapped', [True, False])
def test_code_in_a_pickle_is_not_run(copy, tmp_path, wrapped):
    folder, state = copy
    bomb = Bomb(tmp_path / 'boom')
    torch.save({'state_dict': state, 'args': bomb} if wrapped else bomb, folder / 'bad.pt')
    with pytest.raises(ValueError, match='more than tensors'):
        HPSReward(checkpoint=str(folder / 'bad.pt'))
    assert not (tmp_path / 'boom').exists()


@pytest.mark.parametrize(
    'content', [torch.zeros(3), [1, 2], {'epoch': 3}, {'state_dict': {'logit_scale': 4.6}}, {}], ids=repr
)
def test_file_without_a_state_dict_is_refused(copy, content):
    folder, _ = copy
    torch.save(content, folder / 'odd.pt')
    with pytest.raises(ValueError, match=r'odd\.pt'):
        HPSReward(checkpoint=str(folder / 'odd.pt'))


def test_places_that_hold_no_checkpoint(copy, tmp_path):
    folder, state = copy
    with pytest.raises(ValueError, match='does not exist'):
        HPSReward(checkpoint=str(tmp_path / 'nowhere.pt'))
    torch.save(state, folder / 'second.pt')
    with pytest.raises(ValueError, match='found 2'):
        HPSReward(checkpoint=str(folder))
    with pytest.raises(ValueError, match=r'reward\.version'):
        HPSReward(version='v3')


def test_batch_is_checked(reward, pictures):
    with pytest.raises(ValueError, match='4 samples but 1 prompts'):
        reward(pictures()[:, :, None], PROMPTS[:1])


def test_repeated_prompts_are_read_once(reward, pictures, monkeypatch):
    """A group has one prompt, and so have the frames of a clip."""
    x, prompts, seen = pictures()[:, :, None], [PROMPTS[i] for i in (1, 0, 1, 1)], []
    tokenize = reward.towers.tokenize
    monkeypatch.setattr(reward.towers, 'tokenize', lambda texts: seen.append(list(texts)) or tokenize(texts))
    together = reward(x, prompts).scores
    assert seen == [[PROMPTS[1], PROMPTS[0]]]
    alone = [reward(x[i : i + 1], [prompt]).scores for i, prompt in enumerate(prompts)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


def test_published_file_goes_with_open_clips_own_tokenizer(tmp_path, pictures):
    """The twin, as HPS_v2.1_compressed.pt comes: under state_dict, with no tokenizer beside it."""
    reward = HPSReward(**HPSReward.rehearsal({}, tmp_path))
    (file,) = tmp_path.rglob('HPS_v2.1_compressed.pt')
    model = open_clip.CLIP(**json.loads((file.parent / 'open_clip_config.json').read_text())['model_cfg']).eval()
    model.load_state_dict(torch.load(file)['state_dict'])
    prompts = ['a cat', '', 'many words ' * 100, 'Ein Zug, 3 Uhr']
    x = pictures(28, 28)
    ours = reward(x[:, :, None], prompts).scores
    seen = Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)(x)
    with torch.no_grad():
        image, text = model.encode_image(seen), model.encode_text(open_clip.get_tokenizer('ViT-H-14')(prompts))
    torch.testing.assert_close(ours, torch.cosine_similarity(image, text), atol=1e-5, rtol=0)
    assert ours.std() > 1e-2
