"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.aesthetic import AestheticReward
from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.clipscore import CLIPScoreReward
from vipo.rewards.compressibility import CompressibilityReward
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.image_reward import ImageReward
from vipo.rewards.ocr import OCRReward
from vipo.rewards.pickscore import PickScoreReward
from vipo.rewards.redness import RednessReward

__all__ = [
    'AestheticReward',
    'CLIPScoreReward',
    'CompressibilityReward',
    'FunctionReward',
    'HPSReward',
    'ImageReward',
    'OCRReward',
    'PickScoreReward',
    'RednessReward',
    'Reward',
    'RewardOutput',
    'as_reward',
]
