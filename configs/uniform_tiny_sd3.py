# The paper's all-ones ablation: a ratio per position, the same advantage everywhere.
_base_ = ['vipo_tiny_sd3.py']

structurer = dict(allocator=dict(_delete_=True, type='UniformAllocator'))
