# Stable Diffusion 3.5 large with adapters. No reference of ours trains it: sizes are Flow-GRPO's for the medium model.
_base_ = ['sd35_medium.py']

# the base stays in bfloat16, 16 GB in place of 129 GB of masters, gradients and Adam's moments
generator = dict(pretrained='stabilityai/stable-diffusion-3.5-large')
