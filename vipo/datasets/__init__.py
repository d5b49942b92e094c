"""Prompt files."""

from vipo.datasets.prompts import PromptDataset, read_prompts

__all__ = ['PromptDataset', 'read_prompts']
