# Stable Diffusion 3.5 medium with adapters learns from HPSv2.1 by ViPO, on one GPU. Sampling and rates are Flow-GRPO's
# for this model; the map and the loss per position are ViPO's.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy.py',
    '_base_/generators/sd35_medium.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

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
# adapters start at zero and take larger steps; Flow-GRPO's rate for them
optim_wrapper = dict(optimizer=dict(lr=3e-4))
ema = dict(decay=0.9)
evaluation = dict(num_steps=40, batch_size=8)
