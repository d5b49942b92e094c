import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from torchvision.transforms.functional import InterpolationMode, resize
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel, Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vipo.rewards import VideoAlignReward
from vipo.rewards.qwen2_vl import SIZES, EqualFrameAttention, fold_lora
from vipo.rewards.qwen2_vl_twin import save_videoalign_twin, twin_options
from vipo.rewards.videoalign import DIMENSIONS

PARTS = ('base_layer', 'lora_A.default', 'lora_B.default')
UP = 'base_model.model.model.layers.0.mlp.up_proj.'
PROMPTS = ['a cat jumps over a wall', 'waves', 'Ein Zug fährt durch den Schnee']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return save_videoalign_twin(tmp_path_factory.mktemp('rewards') / 'videoalign')


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """With the published area of a frame; the others see as few patches as a rehearsal does."""
    return save_videoalign_twin(tmp_path_factory.mktemp('rewards') / 'videoalign', pixels=200704)


@pytest.fixture(scope='module')
def make(folder):
    def make(place=folder, **options):
        return VideoAlignReward(**{**twin_options(place), **options})

    return make


@pytest.fixture(scope='module')
def reward(make):
    return make()


@pytest.fixture
def clips(normal):
    """Three clips in 8-bit levels, of 9 frames of 60 x 100 pixels."""
    return (normal(3, 3, 9, 60, 100).sigmoid() * 255).round() / 255


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the checkpoint to be spoiled."""
    place = tmp_path / 'videoalign'
    shutil.copytree(folder, place)
    return place


def spoil(place, change):
    path = place / 'checkpoint-1/model.pth'
    state = torch.load(path)
    change(state)
    torch.save(state, path)


@torch.no_grad()
def their_raw_scores(folder, clip, prompt, positions):
    """The published computation with peft's own unfolded adapters, torchvision's resize, the library's own processor,
    attention and prompt of a chat, for one clip.
    """
    step = folder / 'checkpoint-1'
    tokenizer = Qwen2Tokenizer.from_pretrained(step / 'tokenizer')
    config = Qwen2VLConfig.from_pretrained(folder)
    lora = json.loads((folder / 'model_config.json').read_text())['peft_lora_config']
    model = Qwen2VLModel(config)
    targets = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and 'visual' not in n]
    options = peft.LoraConfig(
        r=lora['lora_r'], lora_alpha=lora['lora_alpha'], lora_dropout=0.05, target_modules=targets
    )
    model = peft.get_peft_model(model, options).eval()
    state = torch.load(step / 'model.pth')
    head = state.pop('base_model.model.rm_head.weight')
    del state['base_model.model.lm_head.weight']
    renamed = {k.replace('base_model.model.model.', 'base_model.model.language_model.'): v for k, v in state.items()}
    model.load_state_dict(renamed, strict=True)
    # The published code casts all of it, the frequencies of the positions too; the rest is bfloat16 in the file.
    model = model.base_model.model.to(torch.bfloat16).float()
    head = head.float()

    index = [0, 3, 5, 8]  # four frames, evenly, halves to even: 0, 2.67, 5.33, 8
    frames = (clip[:, index].transpose(0, 1) * 255).round().byte()
    size = smart_resize(*clip.shape[-2:], min_pixels=100352, max_pixels=200704)
    frames = resize(frames, list(size), InterpolationMode.BICUBIC, antialias=True)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    processor = Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False, image_mean=mean, image_std=std)
    inputs = processor(frames, return_tensors='pt')
    height, width = (side // 28 for side in size)
    assert inputs['video_grid_thw'].tolist() == [[2, 2 * height, 2 * width]]
    text = (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>'
        + '<|video_pad|>' * (2 * height * width)
        + '<|vision_end|>'
        + (folder / 'template.txt').read_text().replace('{text_prompt}', prompt)
        + '<|im_end|>\n<|im_start|>assistant\n'
    )
    ids = tokenizer(text, return_tensors='pt').input_ids
    video = ids == config.video_token_id
    if positions == '1d':
        embedded = model.get_input_embeddings()(ids)
        seen = model.get_video_features(inputs['pixel_values_videos'], inputs['video_grid_thw']).pooler_output
        embedded = embedded.masked_scatter(video[..., None].expand_as(embedded), torch.cat(seen))
        hidden = model.language_model(inputs_embeds=embedded).last_hidden_state
    else:
        hidden = model(input_ids=ids, mm_token_type_ids=2 * video, **inputs).last_hidden_state
    special = tokenizer.convert_tokens_to_ids([f'<|{name}_reward|>' for name in DIMENSIONS])
    return torch.stack([head[0] @ hidden[0, ids[0].tolist().index(token)] for token in special])


@pytest.mark.parametrize('positions', ['1d', '3d'])
def test_score_is_the_published_computation(published, make, clips, positions):
    raw = make(published, normalized=False, positions=positions)(clips, PROMPTS)
    theirs = torch.stack([their_raw_scores(published, c, p, positions) for c, p in zip(clips, PROMPTS, strict=True)])
    torch.testing.assert_close(torch.stack([raw.parts[n] for n in DIMENSIONS], 1), theirs, atol=1e-4, rtol=0)
    assert theirs.std(0).min() > 1e-2, 'the comparison means nothing if all scores are alike'


@pytest.mark.parametrize(
    'size',
    [(448, 448), (300, 420), (480, 832), (701, 333), (201, 119), (31, 310)],
    ids=['as it is', 'within the area', 'too large', 'too large, odd', 'too small, odd', 'narrow'],
)
def test_any_size_of_frame(published, make, normal, size):
    clip = (normal(3, 9, *size).sigmoid() * 255).round() / 255
    raw = make(published, normalized=False)(clip[None], PROMPTS[:1])
    ours = torch.stack([raw.parts[name][0] for name in DIMENSIONS])
    torch.testing.assert_close(ours, their_raw_scores(published, clip, PROMPTS[0], '1d'), atol=1e-4, rtol=0)


def test_positions_matter(make, clips):
    plain, spatial = (make(positions=p)(clips, PROMPTS).scores for p in ('1d', '3d'))
    assert (plain - spatial).abs().max() > 1e-2


def test_normalisation_is_the_checkpoints(make, reward, clips):
    raw, normed = make(normalized=False)(clips, PROMPTS).parts, reward(clips, PROMPTS).parts
    torch.testing.assert_close(normed['VQ'], (raw['VQ'] - 0.5) / 2)
    torch.testing.assert_close(normed['MQ'], (raw['MQ'] + 1) / 0.5)
    torch.testing.assert_close(normed['TA'], (raw['TA'] - 2) / 3)


def test_score_is_the_weighted_sum(make, reward, clips):
    out = reward(clips, PROMPTS)
    torch.testing.assert_close(out.scores, out.parts['VQ'] + out.parts['MQ'])
    assert reward.weights == {'VQ': 1.0, 'MQ': 1.0}
    other = make(weights={'TA': 2.0, 'VQ': -0.5})(clips, PROMPTS)
    torch.testing.assert_close(other.scores, 2 * out.parts['TA'] - 0.5 * out.parts['VQ'])


def test_batch_size_and_padding_do_not_matter(make, reward, clips):
    together = reward(clips, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = reward(clips[i : i + 1], [prompt])
        torch.testing.assert_close(alone.scores, together.scores[i : i + 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(make(batch_size=2)(clips, PROMPTS).scores, together.scores, atol=1e-4, rtol=0)


def test_rate_decides_which_frames_count(make, reward, normal):
    """At 8 frames a second every fourth counts, at 2 every one; a record's own rate goes first."""
    clip = normal(1, 3, 17, 60, 100).sigmoid()
    changed = clip.clone()
    changed[:, :, 1] = 0
    slow = make(fps=2.0)
    assert torch.equal(reward(clip, ['x']).scores, reward(changed, ['x']).scores)
    assert not torch.equal(slow(clip, ['x']).scores, slow(changed, ['x']).scores)
    both = reward(clip.expand(2, -1, -1, -1, -1), ['x', 'x'], [{'fps': 2}, {}]).scores
    torch.testing.assert_close(
        both, torch.cat([slow(clip, ['x']).scores, reward(clip, ['x']).scores]), atol=1e-4, rtol=0
    )


def test_gradient_reaches_the_pixels_of_the_frames_that_count(reward, clips):
    x = clips.requires_grad_()
    before = reward.score_clips(x, PROMPTS)
    before.sum().backward()
    moved = x.grad.abs().amax((0, 1, 3, 4)) > 0
    assert moved.tolist() == [i in (0, 3, 5, 8) for i in range(9)]
    assert x.grad.isfinite().all()


def test_attention_over_equal_frames_is_the_librarys(folder, normal):
    model = Qwen2VLModel(Qwen2VLConfig.from_pretrained(folder)).eval()
    patches, grid = normal(2 * 3 * 4 * 6, 1176), torch.tensor([[3, 4, 6]] * 2)
    with torch.no_grad():
        theirs = model.visual(patches, grid_thw=grid).pooler_output
        model.visual.blocks[0].attn = EqualFrameAttention(model.visual.blocks[0].attn)
        ours = model.visual(patches, grid_thw=grid).pooler_output
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_folding_is_peft_s_merge(normal):
    layer = torch.nn.Sequential(torch.nn.Linear(6, 5))
    adapted = peft.get_peft_model(layer, peft.LoraConfig(r=2, lora_alpha=6, target_modules=['0']))
    adapted.base_model.model[0].lora_B.default.weight.data = normal(5, 2)
    state = {k.removeprefix('base_model.model.'): v.clone() for k, v in adapted.state_dict().items()}
    merged = adapted.merge_and_unload().state_dict()
    ours = fold_lora(state, scale=3.0)
    assert ours.keys() == merged.keys()
    torch.testing.assert_close(ours['0.weight'], merged['0.weight'])


def test_published_sizes_give_the_published_file():
    """5 031 072 529 bytes of model.pth: bfloat16 weights, adapters of rank 64 on all layers, the head, pickle's own."""
    config = Qwen2VLConfig(**SIZES['2b'])
    config.text_config.vocab_size = 151660
    with torch.device('meta'):
        model = Qwen2VLModel(config)
    weights = sum(p.numel() for p in model.parameters())
    linear = [m for m in model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    adapters = sum(64 * (m.in_features + m.out_features) for m in linear)
    total = 2 * (weights + adapters + 151660 * 1536 + 1536)
    assert 0 < 5_031_072_529 - total < 0.0001 * total


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda s: s.pop('base_model.model.model.norm.weight'), r'missing language_model\.norm\.weight'),
        (lambda s: s.pop('base_model.model.rm_head.weight'), r'rm_head\.weight is missing'),
        (lambda s: s.update({'base_model.model.rm_head.weight': torch.zeros(2, 16)}), r'rm_head\.weight is of shape'),
        (lambda s: s.update({'base_model.model.visual.extra': torch.zeros(2)}), r'unexpected visual\.extra'),
        (lambda s: s.update({'extra': torch.zeros(2)}), "'extra' does not begin"),
        (
            lambda s: s.update({'base_model.model.model.norm.weight': torch.zeros(7)}),
            r'norm\.weight has shape \(7,\) instead of',
        ),
        (lambda s: s.pop(UP + 'lora_A.default.weight'), r'but not .*lora_A'),
        (
            lambda s: s.pop(UP + 'base_layer.weight'),
            'no weight that it adapts',
        ),
        (
            lambda s: s.update(
                {'base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight': torch.ones(3, 16)}
            ),
            'the adapter of .* has shapes',
        ),
    ],
    ids=['missing', 'no head', 'wrong head', 'extra', 'foreign', 'shape', 'half', 'homeless', 'adapter shape'],
)
def test_keys_that_do_not_fit_are_refused(copy, make, change, match):
    spoil(copy, change)
    with pytest.raises(ValueError, match=match):
        make(copy)


def test_damaged_and_dangerous_files_are_refused(copy, make, tmp_path):
    path = copy / 'checkpoint-1/model.pth'
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    with pytest.raises(ValueError, match='truncated'):
        make(copy)

    class Bomb:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / 'boom',)

    torch.save({'base_model.model.x': Bomb()}, path)
    with pytest.raises(ValueError, match='more than tensors'):
        make(copy)
    assert not (tmp_path / 'boom').exists()


def test_places_that_hold_no_checkpoint(copy, make, tmp_path):
    with pytest.raises(ValueError, match='does not exist'):
        make(copy, checkpoint=str(tmp_path / 'nowhere'))
    with pytest.raises(ValueError, match=r'checkpoint.*is no folder'):
        make(copy, checkpoint=str(copy / 'template.txt'))
    shutil.rmtree(copy / 'checkpoint-1/tokenizer')
    with pytest.raises(ValueError, match='no folder "tokenizer"'):
        make(copy)
    (copy / 'checkpoint-1/model.pth').unlink()
    with pytest.raises(ValueError, match=r'must hold one checkpoint-\*/model\.pth, found 0'):
        make(copy)
    described = json.loads((copy / 'model_config.json').read_text())
    del described['peft_lora_config']['lora_r']
    (copy / 'model_config.json').write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r'lacks peft_lora_config\.lora_r'):
        make(copy)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        ({'weights': {'VO': 1.0}}, "'VO' is none of .*Did you mean 'VQ'"),
        ({'weights': {'VQ': 0.0}}, 'every weight is 0'),
        ({'positions': '2d'}, 'positions must be one of'),
        ({'fps': 0}, 'must be positive'),
        ({'template': None}, r'template is not given.*download prompt_template\.py from https://'),
        ({'template': '/nowhere/prompt_template.py'}, 'is no file.*download'),
    ],
)
def test_mistakes_are_explained(make, options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


def test_prompt_that_imitates_a_special_token_is_refused(reward, clips):
    with pytest.raises(ValueError, match=r'exactly once .*contain one'):
        reward(clips[:1], ['a sign that reads <|VQ_reward|>'])
    with pytest.raises(ValueError, match='stands for pixels'):
        reward(clips[:1], ['<|video_pad|>'])


def test_a_picture_is_refused(reward, clips):
    with pytest.raises(ValueError, match='at least 2 frames'):
        reward(clips[:, :, :1], PROMPTS)


def test_differentiable_scores_are_the_scores(make, clips):
    reward, records = make(batch_size=1), [{'fps': 2}, {}, {'fps': 2}]
    for metadata in (None, records):
        scores = reward(clips, PROMPTS, metadata).scores
        torch.testing.assert_close(reward.differentiable_scores(clips, PROMPTS, metadata), scores)
    assert (scores - reward(clips, PROMPTS).scores).abs()[[0, 2]].min() > 0


def test_precision_of_the_weights_changes_little(make, clips):
    """In bfloat16, the default, scores are those in float32 but for rounding."""
    exact, rounded = make(), make(dtype='bfloat16')
    assert (
        exact.scorer.text_model.rotary_emb.inv_freq.tolist() == rounded.scorer.text_model.rotary_emb.inv_freq.tolist()
    )
    a, b = (torch.stack(list(r(clips, PROMPTS).parts.values())) for r in (exact, rounded))
    assert (a - b).abs().max() < 0.05 * a.abs().max()
    assert rounded.scorer.head.weight.dtype == torch.float32


def test_adapters_are_folded_before_anything_is_rounded(folder):
    """The file is bfloat16; in float32 the folded weight keeps what bfloat16 would drop."""
    state = torch.load(folder / 'checkpoint-1/model.pth')
    assert all(v.dtype == torch.bfloat16 for v in state.values())
    name = UP.removesuffix('.')
    base, down, up = (state[f'{name}.{part}.weight'].float() for part in PARTS)
    reward = VideoAlignReward(**twin_options(folder))
    ours = reward.scorer.text_model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(ours, base + 2 * up @ down)
    assert (ours.bfloat16().float() - ours).abs().max() > 1e-4


def test_work_does_not_grow_with_the_frames(reward, normal):
    """No loop over frames: as many operations for 53 frames as for 9."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for frames in (9, 53):
        with torch.no_grad(), Count() as count:
            reward.score_clips(normal(1, 3, frames, 28, 28).sigmoid(), ['x'])
        counts.append(count.calls)
    assert counts[0] == counts[1]


def test_two_names_for_one_weight_are_refused(copy, make):
    spoil(copy, lambda s: s.update({UP + 'weight': s[UP + 'base_layer.weight']}))
    with pytest.raises(ValueError, match='two tensors of the checkpoint would both become'):
        make(copy)
