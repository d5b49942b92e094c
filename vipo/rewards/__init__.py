"""Rewards: pixels + prompts -> one score per sample."""

from vipo.rewards.aesthetic import AestheticReward
from vipo.rewards.base import Reward, RewardOutput
from vipo.rewards.clipscore import CLIPScoreReward
from vipo.rewards.compressibility import CompressibilityReward
from vipo.rewards.frames import FrameReward
from vipo.rewards.function import FunctionReward, as_reward
from vipo.rewards.hps import HPSReward
from vipo.rewards.hpsv3 import HPSv3Reward
from vipo.rewards.image_reward import ImageReward
from vipo.rewards.judge import JudgeReward
from vipo.rewards.ocr import OCRReward
from vipo.rewards.pickscore import PickScoreReward
from vipo.rewards.picture import PictureReward
from vipo.rewards.redness import RednessReward
from vipo.rewards.remote import RemoteReward
from vipo.rewards.videoalign import VideoAlignReward
from vipo.rewards.weighted import WeightedReward

__all__ = [
    'AestheticReward',
    'CLIPScoreReward',
    'CompressibilityReward',
    'FrameReward',
    'FunctionReward',
    'HPSReward',
    'HPSv3Reward',
    'ImageReward',
    'JudgeReward',
    'OCRReward',
    'PickScoreReward',
    'PictureReward',
    'RednessReward',
    'RemoteReward',
    'Reward',
    'RewardOutput',
    'VideoAlignReward',
    'WeightedReward',
    'as_reward',
]
