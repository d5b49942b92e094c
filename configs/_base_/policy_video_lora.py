# What adapters of large video models share beside the paper's sampling.
_base_ = ['policy_video_paper.py']

# Flow-Factory's rate for adapters of Wan
optim_wrapper = dict(optimizer=dict(lr=1e-4))
# the reward leaves the GPU while the policy works
offload = ['reward']
