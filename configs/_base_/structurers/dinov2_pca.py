# The paper's map: DINOv2-L patch features, three principal components weighted by their variance, smoothed.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='DINOv2Backbone', pretrained='facebook/dinov2-large', dtype='float32'),
    # 'center' is ours: a component's sign is arbitrary and the paper's code leaves it so
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    # mean one, so that the size of a step does not depend on the picture; 'minmax' is the reference's
    normalize='mean',
)
