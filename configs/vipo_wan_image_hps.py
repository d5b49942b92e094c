# Wan2.1 1.3B as an image generator learns from HPSv2.1 by ViPO: one frame, DanceGRPO's settings for this model.
_base_ = [
    '_base_/runtime.py',
    '_base_/generators/wan21_1_3b.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

generator = dict(resolution=512, num_frames=1, shift=3.0)
# the published 1e-4 is for an average over all positions and channels; per position that is about 0.1 to 0.25
loss = dict(type='PolicyLoss', mode='position', clip_range=0.2, kl_weight=0.0)
advantage = dict(scale='group', eps=1e-4, clip=5.0)
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
train_dataloader = dict(
    # one prompt a line; put your own here
    dataset=dict(type='PromptDataset', file='vipo://prompts/scenes_train.txt'),
    num_workers=0,
)
train_cfg = dict(type='PolicyLoop', max_iters=300)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = None
ema = dict(decay=0.995)
evaluation = dict(prompts='vipo://prompts/scenes_eval.txt', num_prompts=64, num_steps=50, batch_size=4)
