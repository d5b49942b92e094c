# Stable Diffusion 3.5 medium with adapters learns from HPSv2.1 by ViPO, on one GPU. Sampling and rates are Flow-GRPO's
# for this model; the map and the loss per position are ViPO's.
_base_ = [
    '_base_/runtime.py',
    '_base_/generators/sd35_medium.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

# the published 1e-4 is for an average over all positions and channels; per position that is about 0.1 to 0.25
loss = dict(type='PolicyLoss', mode='position', clip_range=0.2, kl_weight=0.0)
advantage = dict(scale='group', eps=1e-4, clip=5.0)
rollout = dict(
    # 10 in training, 40 in evaluation
    num_steps=10,
    kernel=dict(type='FlowKernel', eta=0.7, reduction='sum'),
    # every step but the last
    selector=dict(type='RandomFraction', fraction=1.0),
    share_initial_noise=False,
    antithetic=False,
)
# groups of 24 are Flow-GRPO's; 16 prompts divide among 1, 2, 4 or 8 GPUs
batch = dict(prompts_per_iteration=16, group_size=24, updates_per_iteration=2, micro_batch_size=4)
train_dataloader = dict(
    # one prompt a line; put your own here
    dataset=dict(type='PromptDataset', file='vipo://prompts/scenes_train.txt'),
    num_workers=0,
)
train_cfg = dict(type='PolicyLoop', max_iters=300)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.9, 0.999), weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = None
ema = dict(decay=0.9)
evaluation = dict(prompts='vipo://prompts/scenes_eval.txt', num_prompts=64, num_steps=40, batch_size=8)
