# The same with adapters in place of all weights.
_base_ = ['vipo_wan_videoalign.py']

# rank and alpha of Flow-GRPO's published adapters
generator = dict(lora=dict(rank=32, alpha=64))
# adapters start at zero and take larger steps; Flow-GRPO's rate for this model
optim_wrapper = dict(optimizer=dict(lr=1e-4))
