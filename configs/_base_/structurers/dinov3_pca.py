# The paper's recipe on DINOv3-L. The checkpoint is gated: its licence has to be accepted on the hub.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='DINOv3Backbone', pretrained='facebook/dinov3-vitl16-pretrain-lvd1689m', dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
