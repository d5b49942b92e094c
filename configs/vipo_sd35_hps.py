# Stable Diffusion 3.5 medium with adapters learns from HPSv2.1 by ViPO, on one GPU. Sampling and rates are Flow-GRPO's
# for this model; the map and the loss per position are ViPO's.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_sd35.py',
    '_base_/generators/sd35_medium.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

# steps are Flow-GRPO's
evaluation = dict(num_steps=40, batch_size=8)
