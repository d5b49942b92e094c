"""ImageReward v1."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vipo.assets import resolve
from vipo.registry import REWARDS
from vipo.registry.build import torch_dtype
from vipo.rewards.base import check_batch_size
from vipo.rewards.blip_layout import read_sizes, to_transformers
from vipo.rewards.checkpoints import check_vocabulary, load_strictly, locate_file, published_bytes, read_tensors
from vipo.rewards.linear_head import LinearHead
from vipo.rewards.picture import PictureReward
from vipo.rewards.preprocess import OPENAI_MEAN, OPENAI_STD, normalize, resize_center_crop

if TYPE_CHECKING:
    from transformers import BertTokenizer

_HUB = 'THUDM/ImageReward'
_FILE = 'ImageReward.pt'
_PARAMETERS = 446_000_000
#: Tokens of a prompt, the first and the last one included; what is longer is cut.
_CONTEXT = 35
#: Of raw scores, as published: they make scores about standard normal.
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072


@REWARDS.register_module()
class ImageReward(PictureReward):
    """A BLIP with a linear head, tuned on human rankings (Xu et al. 2023, arXiv 2304.05977); about -2.3 to 2.

    A ViT-L/16 sees the picture; a bidirectional BERT reads the prompt, attends to all the picture's tokens, and its
    first token is the input of the head, which is one affine map.

    Args:
        checkpoint: instead of the hub, the file ``ImageReward.pt`` or a folder that holds it.
        tokenizer: hub id or local folder of BERT's tokenizer; the two tokens that BLIP adds are added here.
        batch_size: most pictures in one forward pass.
        device: of the weights, which then stay there; None follows the run.
        dtype: of the weights; the affine map is float32.

    Raises:
        ValueError: the checkpoint cannot be read, its keys or shapes are not the model's, or the tokenizer is another
            model's.
    """

    differentiable = True

    def __init__(
        self,
        checkpoint: str | None = None,
        tokenizer: str = 'bert-base-uncased',
        batch_size: int = 64,
        device: str | None = None,
        dtype: str = 'float32',
    ) -> None:
        path = locate_file(checkpoint, _HUB, _FILE, 'reward.checkpoint')
        sizes = read_sizes(path)
        self.tokenizer = _read_tokenizer(tokenizer, sizes['text']['vocab_size'])
        self.side = sizes['vision']['image_size']
        self.network = load_strictly(lambda: Network(sizes), to_transformers(read_tensors(path)), path)
        self.weight, self.bias = self.network.head.fold()
        del self.network.head
        self.network.to(torch_dtype(dtype))
        self.batch_size = check_batch_size(batch_size)
        self.place(device)

    @classmethod
    def hub_models(cls, options: dict[str, Any]) -> dict[str, str]:
        """What a config with these options loads, see :mod:`vipo.engine.hub`."""
        checkpoint = {'checkpoint': _HUB} if options.get('checkpoint') is None else {}
        return {
            **checkpoint,
            'tokenizer': options.get('tokenizer', signature(cls).parameters['tokenizer'].default),
        }

    @classmethod
    def hub_files(cls, options: dict[str, Any]) -> dict[str, list[str]]:
        """The files of these that are loaded, see :mod:`vipo.engine.hub`."""
        return {'checkpoint': [_FILE]}

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int | None:
        """Bytes of the weights for a plan, see :mod:`vipo.engine.plan`; None where the model is not known here."""
        return published_bytes(options, _PARAMETERS)

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal, see :mod:`vipo.engine.rehearsal`."""
        from vipo.rewards.twins import write_image_reward

        twin = write_image_reward(folder / 'image_reward')
        return {'checkpoint': twin, 'tokenizer': twin, 'device': None}

    def move(self, device: torch.device | str) -> None:
        self.network.to(device)
        self.weight, self.bias = self.weight.to(device), self.bias.to(device)

    def score_pictures(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        images = resize_center_crop(pixels.to(self.weight), self.side, levels=True)
        options = {'padding': 'max_length', 'truncation': True, 'max_length': _CONTEXT, 'return_tensors': 'pt'}
        texts = self.tokenizer(list(prompts), **options).to(self.weight.device)
        first = self.network(normalize(images, OPENAI_MEAN, OPENAI_STD), texts.input_ids, texts.attention_mask)
        return (first.float() @ self.weight + self.bias - _MEAN) / _STD


class Network(nn.Module):
    """Both of transformers' BLIP models and the head.

    Args:
        sizes: see :data:`vipo.rewards.blip_layout.IMAGE_REWARD`.
    """

    def __init__(self, sizes: dict[str, dict[str, Any]]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        vision, text = sizes['vision'], sizes['text']
        self.vision = BlipVisionModel(BlipVisionConfig(**vision, hidden_act='gelu', layer_norm_eps=1e-6))
        text_config = BlipTextConfig(
            **text,
            encoder_hidden_size=vision['hidden_size'],
            hidden_act='gelu',
            layer_norm_eps=1e-12,
            bos_token_id=text['vocab_size'] - 2,
            # Without it there is no cross-attention.
            is_decoder=True,
        )
        self.text = BlipTextModel(text_config, add_pooling_layer=False)
        self.head = LinearHead(text['hidden_size'])

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The first token's features ``(N, D)`` of images ``(N, 3, side, side)`` and prompts ``(N, L)``."""
        tokens = self.vision(pixel_values=images).last_hidden_state
        # With is_decoder=True, unlike in the config, prompts would be read from left to right.
        out = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=tokens, is_decoder=False)
        return out.last_hidden_state[:, 0]


def _read_tokenizer(name: str, size: int) -> BertTokenizer:
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(resolve(name))
    tokenizer.add_special_tokens({'bos_token': '[DEC]'})
    tokenizer.add_special_tokens({'additional_special_tokens': ['[ENC]']})
    check_vocabulary(tokenizer, size, name)
    return tokenizer
