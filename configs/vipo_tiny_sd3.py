# The main job: a tiny trained Stable Diffusion 3 learns by ViPO on two CPU cores, with everything embedded.
_base_ = ['_base_/runtime.py']

generator = dict(
    type='SD3Generator',
    pretrained='vipo://tiny-sd3',
    resolution=64,
    # no guidance: half the cost, and the policy itself has to get better
    guidance_scale=1.0,
    max_sequence_length=16,
    # None trains all weights; dict(rank=16) trains LoRA adapters
    lora=None,
)

# What is learned from.
reward = dict(type='HPSReward', checkpoint='vipo://tiny-hps')
# What is only watched, so that reward hacking shows.
eval_rewards = dict(judge=dict(type='SceneJudge'))

# Where the learning pressure goes.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='DINOv2Backbone', pretrained='vipo://tiny-dinov2'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)

# clip_range is that of one position; scalar mode divides it by the square root of the number of positions
loss = dict(type='PolicyLoss', mode='position', clip_range=0.2, kl_weight=0.0)
advantage = dict(scale='group', eps=1e-4, clip=5.0)

rollout = dict(
    num_steps=6,
    kernel=dict(type='FlowKernel', eta=0.9, reduction='sum'),
    # which steps explore and are trained, chosen anew each iteration
    selector=dict(type='Window', size=2, first=0, last=4),
    # A group starts from one noise, so that its rewards differ by what the trained steps did and by nothing else;
    # `python tools/benchmark.py signal` shows what that is worth.
    share_initial_noise=True,
    # pairs of opposite noise: what a picture gains or loses by the size of the noise alone teaches nothing
    antithetic=True,
)
# All sizes are global; processes only divide the work.
batch = dict(prompts_per_iteration=12, group_size=12, updates_per_iteration=2, micro_batch_size=36)

train_dataloader = dict(
    dataset=dict(type='PromptDataset', file='vipo://prompts/scenes_train.txt'),
    num_workers=0,
)
train_cfg = dict(type='PolicyLoop', max_iters=120)
optim_wrapper = dict(
    type='OptimWrapper',
    # small steps, many of them: what a step gains grows with lr, what its noise spoils with the square of lr
    optimizer=dict(type='AdamW', lr=2e-5, betas=(0.9, 0.95), weight_decay=0.0),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [dict(type='LinearLR', start_factor=0.2, begin=0, end=5, by_epoch=False)]
ema = dict(decay=0.9)

evaluation = dict(
    prompts='vipo://prompts/scenes_eval.txt',
    num_prompts=256,
    num_steps=10,
    batch_size=32,
)
