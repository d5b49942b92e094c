"""Prompt files."""

from vipo.datasets.prompts import PromptDataset, collate_prompts, read_prompts

__all__ = ['PromptDataset', 'collate_prompts', 'read_prompts']
