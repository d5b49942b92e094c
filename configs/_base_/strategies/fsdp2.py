# Weights, gradients and optimiser are divided among all ranks; a single process has nothing to divide.
strategy = dict(
    type='FSDP2',
    # let go of a block between its forward and its backward pass
    reshard_after_forward=True,
    # gather once for a whole rollout, not once per denoising step; False where the network does not fit one GPU
    keep_in_rollout=True,
)
