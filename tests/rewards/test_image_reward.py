import math

import pytest
import torch
import torch.nn.functional as F

from tests.rewards.conftest import squares, token_ids
from vipo.rewards import ImageReward
from vipo.rewards.blip_layout import IMAGE_REWARD
from vipo.rewards.image_reward import _PARAMETERS, Network

PROMPTS = [
    'a small red circle',
    'a large blue square above a small green ring',
    'Blue  ring',
    'a red circle at the left ' * 9,
]
#: Of the published score.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
UNUSED = {f'blip.{tower}_proj.{kind}' for tower in ('vision', 'text') for kind in ('weight', 'bias')}


class Published(dict):
    """A state dict that knows which of its keys were read."""

    def __init__(self, state):
        super().__init__(state)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)

    def linear(self, x, name):
        return x @ self[f'{name}.weight'].T + self[f'{name}.bias']

    def norm(self, x, name, eps):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * self[f'{name}.weight']
            + self[f'{name}.bias']
        )


def attend(q, k, v, heads, mask=None):
    """Softmax attention ``(N, L, D)``; a mask ``(N, L)`` leaves out the keys where it is 0."""
    n, length, width = q.shape
    q, k, v = (x.reshape(n, -1, heads, width // heads).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
    if mask is not None:
        weights = weights.masked_fill(mask[:, None, None] == 0, float('-inf'))
    return (weights.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)


def vision(state, images, heads, blocks):
    """A vision transformer with pre-normalisation, as BLIP has it: all tokens after the last norm."""
    at = 'blip.visual_encoder'
    kernel = state[f'{at}.patch_embed.proj.weight']
    x = F.conv2d(images, kernel, state[f'{at}.patch_embed.proj.bias'], stride=kernel.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state[f'{at}.cls_token'].expand(len(x), -1, -1), x], dim=1) + state[f'{at}.pos_embed']
    for i in range(blocks):
        block = f'{at}.blocks.{i}'
        q, k, v = state.linear(state.norm(x, f'{block}.norm1', 1e-6), f'{block}.attn.qkv').chunk(3, dim=-1)
        x = x + state.linear(attend(q, k, v, heads), f'{block}.attn.proj')
        y = F.gelu(state.linear(state.norm(x, f'{block}.norm2', 1e-6), f'{block}.mlp.fc1'))
        x = x + state.linear(y, f'{block}.mlp.fc2')
    return state.norm(x, f'{at}.norm', 1e-6)


def text(state, ids, mask, image, heads, layers):
    """BERT with post-normalisation; each layer attends to the prompt both ways, then to the picture's tokens."""
    at = 'blip.text_encoder'
    words, places = (state[f'{at}.embeddings.{kind}_embeddings.weight'] for kind in ('word', 'position'))
    x = state.norm(words[ids] + places[: ids.shape[1]], f'{at}.embeddings.LayerNorm', 1e-12)
    for i in range(layers):
        layer = f'{at}.encoder.layer.{i}'
        for kind, source, seen in (('attention', None, mask), ('crossattention', image, None)):
            name, keys = f'{layer}.{kind}', x if source is None else source
            q = state.linear(x, f'{name}.self.query')
            k, v = (state.linear(keys, f'{name}.self.{part}') for part in ('key', 'value'))
            y = state.linear(attend(q, k, v, heads, seen), f'{name}.output.dense')
            x = state.norm(y + x, f'{name}.output.LayerNorm', 1e-12)
        y = state.linear(F.gelu(state.linear(x, f'{layer}.intermediate.dense')), f'{layer}.output.dense')
        x = state.norm(y + x, f'{layer}.output.LayerNorm', 1e-12)
    return x


@pytest.fixture(scope='module')
def options(twin_options):
    return twin_options(ImageReward)


@pytest.fixture(scope='module')
def published(options):
    return Published(torch.load(f'{options["checkpoint"]}/ImageReward.pt'))


@pytest.fixture(scope='module')
def their_score(options, published):
    @torch.no_grad()
    def score(pictures, prompts):
        ids = token_ids(options['tokenizer'], prompts, 35)
        image = vision(published, squares(pictures, 32, 'round'), heads=2, blocks=2)
        x = text(published, ids, (ids != 0).long(), image, heads=2, layers=2)[:, 0]
        for i in (0, 2, 4, 6, 7):
            x = published.linear(x, f'mlp.layers.{i}')
        return (x[:, 0] - MEAN) / STD

    return score


@pytest.mark.parametrize('size', [(32, 32), (35, 32), (32, 37), (85, 61), (14, 21), (101, 32)])
def test_score_is_that_of_blip_in_its_own_layout(options, their_score, pictures, size):
    x = pictures(*size)
    scores = ImageReward(**options)(x[:, :, None], PROMPTS).scores
    torch.testing.assert_close(scores, their_score(x, PROMPTS), atol=1e-4, rtol=0)


def test_every_published_key_counts_but_those_known_not_to(published, their_score, pictures):
    their_score(pictures(32, 32), PROMPTS)
    assert set(published) - published.read == UNUSED | {'blip.text_encoder.embeddings.position_ids'}


def test_prompt_is_cut_at_35_tokens(options, their_score, pictures):
    """The first 33 letters count, the next does not, and padding is not read."""
    x, letters = pictures(32, 32), 'abcdefghijklmnopqrstuvwxyz0123456789'
    same = [' '.join(letters[:33]), ' '.join(letters[:34]), ' '.join(letters), ' '.join(letters[:32] + 'z')]
    x = x[:1].expand(4, -1, -1, -1)
    scores = ImageReward(**options)(x[:, :, None], same).scores
    torch.testing.assert_close(scores, their_score(x, same), atol=1e-4, rtol=0)
    assert scores[0] == scores[1] == scores[2]
    assert (scores[3] - scores[0]).abs() > 1e-4


def test_reading_is_not_from_left_to_right(options, pictures):
    """The score is taken at the first token, which a causal mask would keep from the prompt."""
    x = pictures(32, 32)[:1].expand(2, -1, -1, -1)
    scores = ImageReward(**options)(x[:, :, None], ['a red ring', 'a red disc']).scores
    assert (scores[0] - scores[1]).abs() > 1e-3


def test_tokens_that_blip_adds_come_last(options):
    """They are never inserted; a prompt that spells them out gets their ids, as it does upstream."""
    tokenizer = ImageReward(**options).tokenizer
    size = len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(['[DEC]', '[ENC]']) == [size - 2, size - 1]
    assert size - 1 not in tokenizer('a red ring').input_ids
    assert size - 1 in tokenizer('a [ENC] ring').input_ids


def test_published_sizes():
    """Counted by hand: ViT-L/16 of 224, BERT-base with cross-attention to width 1024, and the head."""
    d, w = 1024, 768
    block = 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d
    see = d + 197 * d + 3 * 256 * d + d + 24 * block + 2 * d
    attention, cross = 4 * w * w + 4 * w + 2 * w, 2 * w * w + 2 * d * w + 4 * w + 2 * w
    read = (30524 + 512) * w + 2 * w + 12 * (attention + cross + 8 * w * w + 5 * w + 2 * w)
    head = sum((a + 1) * b for a, b in [(768, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)])
    with torch.device('meta'):
        network = Network(IMAGE_REWARD)
    assert sum(p.numel() for p in network.parameters()) == see + read + head
    assert see + read == pytest.approx(_PARAMETERS, rel=0.005)


@pytest.mark.parametrize('name', sorted(UNUSED))
def test_keys_without_effect_may_be_absent(options, pictures, tmp_path, name):
    twin = ImageReward.rehearsal({}, tmp_path)
    path = tmp_path / 'image_reward' / 'ImageReward.pt'
    state = torch.load(path)
    del state[name]
    torch.save(state, path)
    x = pictures(32, 32)[:, :, None]
    assert torch.equal(ImageReward(**twin)(x, PROMPTS).scores, ImageReward(**options)(x, PROMPTS).scores)
