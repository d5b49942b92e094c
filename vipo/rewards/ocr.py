"""Is the text that a prompt asks for in the picture, letter by letter?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vipo.registry import REWARDS
from vipo.registry.build import config_path, find_dotted
from vipo.rewards.base import Reward, RewardOutput, check_batch
from vipo.rewards.edit_distance import squeeze, text_match
from vipo.rewards.picture import check_pictures
from vipo.rewards.preprocess import to_pil

if TYPE_CHECKING:
    from PIL import Image


@REWARDS.register_module()
class OCRReward(Reward):
    """``1 - d / length`` of the text asked for, with ``d`` its edit distance to what a recogniser reads in the picture.

    The text asked for stands between the first two straight double quotes of the prompt. A sample without one, or
    with a pixel that is no number, has no score (it is marked invalid). There is no gradient.

    Args:
        recogniser: ``picture -> list of texts``, or its dotted path; it gets a PIL picture and returns what it reads
            in reading order. None is ``RapidRecogniser``, which needs the extra ``vipo[ocr]``.
        target_key: take the text from this key of the prompt file's records in place of the quotes; an empty text or
            null there means that there is none.

    Raises:
        ImportError: the extra is not installed.
        ValueError: ``recogniser`` cannot be called.
    """

    def __init__(
        self, recogniser: Callable[[Image.Image], Sequence[str]] | str | None = None, target_key: str | None = None
    ) -> None:
        if isinstance(recogniser, str):
            recogniser = find_dotted(recogniser, f'{config_path()}.recogniser')
        self.recogniser = RapidRecogniser() if recogniser is None else recogniser
        if not callable(self.recogniser):
            raise ValueError(f'reward.recogniser must be callable, got {recogniser!r}')
        self.target_key = target_key

    def __call__(
        self, pixels: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]] | None = None
    ) -> RewardOutput:
        check_batch(pixels, prompts)
        check_pictures(self, pixels)
        targets = [quoted(p) for p in prompts] if self.target_key is None else self._from_records(metadata)
        known = pixels.isfinite().flatten(1).all(1).tolist()
        scores = [
            self._score(target, picture) if whole and squeeze(target) else float('nan')
            for target, picture, whole in zip(targets, to_pil(pixels[:, :, 0]), known, strict=True)
        ]
        return RewardOutput(torch.tensor(scores))

    def _score(self, target: str, picture: Image.Image) -> float:
        lines = self.recogniser(picture)
        if isinstance(lines, str) or not all(isinstance(line, str) for line in lines):
            raise ValueError(f'reward.recogniser must return a list of texts, got {lines!r}')
        return text_match(target, lines)

    def _from_records(self, metadata: Sequence[dict[str, Any]] | None) -> list[str]:
        if metadata is None:
            raise ValueError(f'reward.target_key={self.target_key!r} needs the records of a .jsonl prompt file')
        lacking = next((record for record in metadata if self.target_key not in record), None)
        if lacking is not None:
            raise ValueError(
                f'reward.target_key={self.target_key!r} is not in a record of the prompt file, which has the keys '
                f'{sorted(lacking)}'
            )
        targets = [record[self.target_key] or '' for record in metadata]
        odd = next((target for target in targets if not isinstance(target, str)), None)
        if odd is not None:
            raise ValueError(f'the prompt file has {odd!r} under reward.target_key={self.target_key!r}: no text')
        return targets


def quoted(prompt: str) -> str:
    """What stands between the first two double quotes of a prompt; empty where there are no two."""
    parts = prompt.split('"', 2)
    return parts[1] if len(parts) == 3 else ''


class RapidRecogniser:
    """RapidOCR on onnxruntime, with the models that its package carries; nothing is downloaded.

    Raises:
        ImportError: the extra is not installed.
    """

    def __init__(self) -> None:
        try:
            import onnxruntime  # noqa: F401 - without it RapidOCR fails at its first picture
            from rapidocr import RapidOCR
        except ImportError as error:
            raise ImportError(
                f"OCRReward reads pictures with RapidOCR, which cannot be imported ({error}): pip install 'vipo[ocr]'. "
                'Or name a recogniser of your own: reward.recogniser=my_module.my_function'
            ) from error
        # Published trainers do not turn lines upside down either. The log would have a line for each empty picture.
        self.engine = RapidOCR(params={'Global.use_cls': False, 'Global.log_level': 'error'})

    def __call__(self, picture: Image.Image) -> list[str]:
        return list(self.engine(picture).txts or ())
