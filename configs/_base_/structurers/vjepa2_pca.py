# The paper's recipe on V-JEPA 2, which sees a clip as a whole, two frames at a time.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='VJEPA2Backbone', pretrained='facebook/vjepa2-vitl-fpc64-256', dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
