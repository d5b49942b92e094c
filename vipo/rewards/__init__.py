"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.judge import JudgeReward
from vipo.rewards.remote import RemoteReward

__all__ = ['FunctionReward', 'HPSReward', 'JudgeReward', 'RemoteReward', 'Reward', 'RewardOutput', 'as_reward']
