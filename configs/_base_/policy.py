# What the full-size configs share: the loss per position, the advantages, the prompts, the length.

# the published 1e-4 is for an average over all positions and channels; per position that is about 0.1 to 0.25
loss = dict(type='PolicyLoss', mode='position', clip_range=0.2, kl_weight=0.0)
advantage = dict(scale='group', eps=1e-4, clip=5.0)
train_dataloader = dict(
    # one prompt a line; put your own here
    dataset=dict(type='PromptDataset', file='vipo://prompts/general_train.txt'),
    num_workers=0,
)
# the paper's number of iterations for FLUX
train_cfg = dict(type='PolicyLoop', max_iters=300)
optim_wrapper = dict(
    type='OptimWrapper',
    # the paper's rate for training all weights
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-4),
    # DanceGRPO's on 16 GPUs; it takes 0.01 on 8, against collapse
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = None
# updated once an iteration: the average of about the last hundred, a third of the run
ema = dict(decay=0.99)
# 64 prompts divide among 1 to 8 GPUs; 28 steps are FLUX's usual number
evaluation = dict(prompts='vipo://prompts/general_eval.txt', num_prompts=64, num_steps=28, batch_size=4)
