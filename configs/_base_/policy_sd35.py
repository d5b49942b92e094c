# Flow-GRPO's sampling, batch and rates for Stable Diffusion 3.5 medium with adapters.
_base_ = ['policy.py']

rollout = dict(
    # in training; the evaluation takes more
    num_steps=10,
    kernel=dict(type='FlowKernel', eta=0.7, reduction='sum'),
    # every step but the last
    selector=dict(type='RandomFraction', fraction=1.0),
    share_initial_noise=False,
    antithetic=False,
)
# groups of 24 are Flow-GRPO's; 16 prompts divide among 1, 2, 4 or 8 GPUs
batch = dict(prompts_per_iteration=16, group_size=24, updates_per_iteration=2, micro_batch_size=4)
# adapters start at zero and take larger steps
optim_wrapper = dict(optimizer=dict(lr=3e-4))
ema = dict(decay=0.9)
