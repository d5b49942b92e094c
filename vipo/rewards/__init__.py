"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.frames import FrameReward
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.hpsv3 import HPSv3Reward
from vipo.rewards.picture import PictureReward
from vipo.rewards.videoalign import VideoAlignReward
from vipo.rewards.weighted import WeightedReward

__all__ = [
    'FrameReward',
    'FunctionReward',
    'HPSReward',
    'HPSv3Reward',
    'PictureReward',
    'Reward',
    'RewardOutput',
    'VideoAlignReward',
    'WeightedReward',
    'as_reward',
]
