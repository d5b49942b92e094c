# policy_video.py with VideoAlign's two dimensions and the paper's sampling.
_base_ = ['policy_video.py']

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
