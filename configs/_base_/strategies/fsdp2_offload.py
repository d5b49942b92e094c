# As fsdp2.py, with the parts of weights, gradients and optimiser in main memory: slower, for GPUs that are too small.
_base_ = ['fsdp2.py']

strategy = dict(cpu_offload=True)
