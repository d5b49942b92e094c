# The flagship: FLUX.1-dev learns from HPSv2.1, its advantages spread by DINOv2 maps. The paper's settings.
# All 12 billion weights are trained, with float32 masters: that takes sharding over several GPUs.
# vipo_flux_hps_lora.py fits one.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy.py',
    '_base_/generators/flux_dev.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
    '_base_/strategies/fsdp2.py',
]

rollout = dict(
    num_steps=8,
    kernel=dict(type='DanceKernel', eta=0.3, reduction='sum'),
    # 60 % of the steps, the last one never
    selector=dict(type='RandomFraction', fraction=0.6),
    # as DanceGRPO and the paper do
    share_initial_noise=True,
    antithetic=False,
)
# 16 prompts and 2 optimiser steps divide among 1, 2, 4 or 8 GPUs; groups of 12 are the paper's
batch = dict(prompts_per_iteration=16, group_size=12, updates_per_iteration=2, micro_batch_size=1)
