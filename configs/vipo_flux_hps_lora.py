# The flagship with adapters in place of all weights.
_base_ = ['vipo_flux_hps.py']

# rank and alpha of Flow-GRPO's published FLUX adapters
generator = dict(lora=dict(rank=64, alpha=128))
# adapters start at zero and take larger steps; Flow-GRPO's rate for them
optim_wrapper = dict(optimizer=dict(lr=3e-4))
# the frozen weights fit one GPU, so each has them all
strategy = dict(_delete_=True, type='DDP')
