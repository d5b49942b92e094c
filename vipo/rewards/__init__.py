"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.aesthetic import AestheticReward
from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.clipscore import CLIPScoreReward
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.image_reward import ImageReward
from vipo.rewards.pickscore import PickScoreReward

__all__ = [
    'AestheticReward',
    'CLIPScoreReward',
    'FunctionReward',
    'HPSReward',
    'ImageReward',
    'PickScoreReward',
    'Reward',
    'RewardOutput',
    'as_reward',
]
