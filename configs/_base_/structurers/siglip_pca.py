# The paper's recipe on the vision tower of SigLIP 2, base.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='SigLIPBackbone', pretrained='google/siglip2-base-patch16-256', dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
