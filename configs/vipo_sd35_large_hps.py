# Stable Diffusion 3.5 large with adapters learns from HPSv2.1 by ViPO. Sampling and rates are Flow-GRPO's for the
# medium model; the map and the loss per position are ViPO's. Planned for one GPU of 80 GB: tools/plan.py counts 29.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy.py',
    '_base_/generators/sd35_large.py',
    '_base_/rewards/hps.py',
    '_base_/structurers/dinov2_pca.py',
]

rollout = dict(
    # 10 in training, 28 in evaluation: the pipeline's default
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
