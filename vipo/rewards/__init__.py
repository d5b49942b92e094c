"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.hps import HPSReward

__all__ = ['HPSReward', 'Reward', 'RewardOutput']
