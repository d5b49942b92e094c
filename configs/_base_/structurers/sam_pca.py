# The paper's recipe on the image encoder of SAM ViT-B, of the paper's ablation. The size is ours: the paper names none.
structurer = dict(
    type='PerceptualStructurer',
    # norm: through SAM's neck, whose 256 channels are what its decoder sees
    backbone=dict(type='TimmBackbone', model='samvit_base_patch16.sa1b', norm=True, dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
