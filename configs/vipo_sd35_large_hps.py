# Stable Diffusion 3.5 large with adapters learns from HPSv2.1 by ViPO. Sampling and rates are Flow-GRPO's for the
# medium model; the map and the loss per position are ViPO's. Planned for one GPU of 80 GB: tools/plan.py counts 29.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_sd35.py',
    '_base_/generators/sd35_large.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]
