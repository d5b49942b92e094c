from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from vipo.rewards import HPSv3Reward
from vipo.rewards.qwen2_vl import SIZES
from vipo.rewards.qwen2_vl_twin import save_hpsv3_twin, twin_options

PROMPTS = ['a quiet harbour at dawn', 'x', 'Ein roter Würfel']


@pytest.fixture
def folder(tmp_path):
    return save_hpsv3_twin(tmp_path / 'hpsv3')


@pytest.fixture
def make(folder):
    def make(**options):
        return HPSv3Reward(**{**twin_options(folder), 'tokenizer': str(folder / 'tokenizer'), **options})

    return make


@pytest.fixture
def pictures(normal):
    """Pictures of 90 x 130 in 8-bit levels: noise, black and white bars, and a smooth one."""
    smooth = torch.nn.functional.interpolate(normal(1, 3, 9, 13), (90, 130), mode='bicubic').sigmoid()
    bars = (torch.arange(130) // 4 % 2).float().expand(1, 3, 90, 130)
    return (torch.cat([normal(1, 3, 90, 130, seed=1).sigmoid(), bars, smooth]) * 255).round() / 255


@torch.no_grad()
def their_outputs(folder, picture, prompt, positions):
    """The library's own model with its head for words, PIL's resize, the library's processor, one picture at a time."""
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / 'tokenizer')
    tokenizer.add_special_tokens({'additional_special_tokens': ['<|Reward|>']})
    config = Qwen2VLConfig.from_pretrained(folder)
    state = load_file(folder / 'HPSv3.safetensors')
    head = [state.pop(f'rm_head.{i}.{kind}') for i in (0, 3, 5) for kind in ('weight', 'bias')]
    model = Qwen2VLForConditionalGeneration(config).eval()
    renamed = {
        k.replace('model.', 'model.language_model.')
        if k.startswith('model.')
        else k.replace('visual.', 'model.visual.'): v
        for k, v in state.items()
    }
    model.load_state_dict(renamed, strict=True)
    # The published code casts all of it, the frequencies of the positions too; the rest is bfloat16 in the file.
    model = model.to(torch.bfloat16).float()
    image = Image.fromarray((picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    height, width = smart_resize(*picture.shape[-2:], min_pixels=200704, max_pixels=200704)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    inputs = Qwen2VLImageProcessorPil(do_resize=False)([image], return_tensors='pt')
    text = (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>'
        + '<|image_pad|>' * (height * width // 28**2)
        + '<|vision_end|>'
        + (folder / 'template.txt').read_text().replace('{text_prompt}', prompt)
        + '<|im_end|>\n<|im_start|>assistant\n'
    )
    ids = tokenizer(text, return_tensors='pt').input_ids
    extra = {'mm_token_type_ids': (ids == config.image_token_id).int()}
    if positions == '1d':
        extra['position_ids'] = torch.arange(ids.shape[1]).expand(3, 1, -1)
    hidden = model(input_ids=ids, output_hidden_states=True, **extra, **inputs).hidden_states[-1]
    x = hidden[0, ids[0].tolist().index(tokenizer.convert_tokens_to_ids('<|Reward|>'))]
    for weight, bias in zip(head[:4:2], head[1:4:2], strict=True):
        x = torch.relu(weight @ x + bias)
    return head[4] @ x + head[5]


@pytest.mark.parametrize('positions', ['1d', '3d'])
def test_score_is_the_published_computation(folder, make, pictures, positions):
    reward = make(positions=positions)
    ours = reward.mean_and_spread(pictures, PROMPTS)
    theirs = torch.stack([their_outputs(folder, x, p, positions) for x, p in zip(pictures, PROMPTS, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert theirs.std(0).min() > 5e-3
    torch.testing.assert_close(reward(pictures[:, :, None], PROMPTS).scores, ours[:, 0])


@pytest.mark.parametrize(
    'size',
    [(448, 448), (300, 420), (512, 768), (480, 801), (201, 119), (31, 310)],
    ids=['as it is', 'too small', 'too large', 'too large, odd', 'too small, odd', 'narrow'],
)
def test_any_size_of_picture(folder, make, normal, size):
    """Where a picture shrinks it does so most along X, with which every version of Pillow then begins."""
    picture = (normal(3, *size).sigmoid() * 255).round() / 255
    ours = make().mean_and_spread(picture[None], PROMPTS[:1])
    torch.testing.assert_close(ours[0], their_outputs(folder, picture, PROMPTS[0], '1d'), atol=1e-4, rtol=0)


def test_area_is_an_option(make, pictures):
    reward = make(pixels=3 * 28 * 28)
    assert reward.scorer.patches(pictures[:, None], 'image')[1].tolist() == [[1, 2, 4]] * 3  # 28 x 56 pixels
    with pytest.raises(ValueError, match=r'reward\.pixels must be at least 784'):
        make(pixels=783)


def test_gradient_reaches_the_pixels(make, pictures):
    x = pictures.requires_grad_()
    make().score_pictures(x, PROMPTS).sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad.abs().amax(1) > 0).float().mean() > 0.9


def test_batch_size_does_not_matter(make, pictures):
    x = pictures[:, :, None]
    torch.testing.assert_close(make(batch_size=2)(x, PROMPTS).scores, make()(x, PROMPTS).scores, atol=1e-5, rtol=1e-4)


def test_published_sizes():
    """8 291 375 616 parameters, the head for words among them, as published for Qwen2-VL-7B-Instruct."""
    config = Qwen2VLConfig(**SIZES['7b'], tie_word_embeddings=False)
    config.text_config.vocab_size = 152064
    with torch.device('meta'):
        model = Qwen2VLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == 8_291_375_616


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (lambda s: s.pop('model.norm.weight'), r'missing language_model\.norm\.weight'),
        (lambda s: s.pop('rm_head.3.bias'), r'rm_head of .*missing 3\.bias'),
        (lambda s: s.update({'rm_head.7.bias': torch.zeros(2)}), r'rm_head of .*unexpected 7\.bias'),
        (lambda s: s.update({'extra': torch.zeros(2)}), 'unexpected extra'),
        (lambda s: s.update({'model.norm.weight': torch.zeros(3)}), r'norm\.weight has shape \(3,\) instead of'),
    ],
    ids=['missing', 'head', 'more head', 'extra', 'shape'],
)
def test_keys_that_do_not_fit_are_refused(folder, make, change, match):
    state = load_file(folder / 'HPSv3.safetensors')
    change(state)
    save_file(state, folder / 'HPSv3.safetensors')
    with pytest.raises(ValueError, match=match):
        make()


def test_damaged_file_and_missing_template(folder, make):
    with pytest.raises(
        ValueError, match=r'template is not given.*download hpsv3/dataset/data_collator_qwen\.py from https://'
    ):
        make(template=None)
    path = folder / 'HPSv3.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match='truncated'):
        make()


def test_precision_of_the_weights_changes_little(make, pictures):
    exact, rounded = (make(dtype=d).mean_and_spread(pictures, PROMPTS) for d in ('float32', 'bfloat16'))
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()


def test_pickle_with_code_is_not_run(folder, make, tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / 'boom',)

    torch.save({'x': Bomb()}, tmp_path / 'HPSv3.pt')
    with pytest.raises(ValueError, match='more than tensors'):
        make(checkpoint=str(tmp_path / 'HPSv3.pt'))
    assert not (tmp_path / 'boom').exists()


def test_tokenizer_that_is_not_there(make, tmp_path, folder):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty' / 'config.json').write_text((folder / 'config.json').read_text())
    with pytest.raises(ValueError, match='tokens and its model has'):
        make(tokenizer=str(tmp_path / 'empty'))
