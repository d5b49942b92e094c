"""Prompt files, and the order in which they are dealt."""

from vipo.datasets.prompts import PromptDataset, collate_prompts, read_prompts
from vipo.datasets.sampler import PromptSampler

__all__ = ['PromptDataset', 'PromptSampler', 'collate_prompts', 'read_prompts']
