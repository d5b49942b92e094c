"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.videoalign import VideoAlignReward

__all__ = ['FunctionReward', 'HPSReward', 'Reward', 'RewardOutput', 'VideoAlignReward', 'as_reward']
