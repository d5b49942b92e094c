# Wan2.1 T2V 14B with adapters, at the size and shift at which the paper trains the 1.3B model.
_base_ = ['wan21_1_3b.py']

generator = dict(
    pretrained='Wan-AI/Wan2.1-T2V-14B-Diffusers',
    # Flow-Factory's rank and alpha for this model; masters, gradients and Adam's moments of all weights are 230 GB
    lora=dict(rank=64, alpha=128),
)
