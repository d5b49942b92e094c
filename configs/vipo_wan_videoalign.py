# Wan2.1 1.3B learns from VideoAlign by ViPO: clips of 53 frames, maps in space and time. The paper's settings.
# All 1.4 billion weights are trained; vipo_wan_videoalign_lora.py takes less memory.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video.py',
    '_base_/generators/wan21_1_3b.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]

rollout = dict(
    num_steps=16,
    kernel=dict(type='DanceKernel', eta=0.25, reduction='sum'),
    # 60 % of the steps, the last one never
    selector=dict(type='RandomFraction', fraction=0.6),
    # as DanceGRPO and the paper do
    share_initial_noise=True,
    antithetic=False,
)
# groups of 8 are the paper's; 16 prompts and 2 optimiser steps divide among 1, 2, 4 or 8 GPUs
batch = dict(prompts_per_iteration=16, group_size=8, updates_per_iteration=2, micro_batch_size=1)
# each dimension is normalised in its group and counts by its weight alone, as in the paper
advantage = dict(combine='advantages')
# the paper's rate for this model
optim_wrapper = dict(optimizer=dict(lr=5e-6))
