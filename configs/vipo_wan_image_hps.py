# Wan2.1 1.3B as an image generator learns from HPSv2.1 by ViPO: one frame, DanceGRPO's settings for this model.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy.py',
    '_base_/generators/wan21_1_3b.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

generator = dict(resolution=512, num_frames=1, shift=3.0)
rollout = dict(
    num_steps=20,
    kernel=dict(type='DanceKernel', eta=0.3, reduction='sum'),
    # 60 % of the steps, the last one never
    selector=dict(type='RandomFraction', fraction=0.6),
    share_initial_noise=True,
    antithetic=False,
)
# groups of 12 are DanceGRPO's; 16 prompts divide among 1, 2, 4 or 8 GPUs
batch = dict(prompts_per_iteration=16, group_size=12, updates_per_iteration=2, micro_batch_size=2)
evaluation = dict(num_steps=50)
