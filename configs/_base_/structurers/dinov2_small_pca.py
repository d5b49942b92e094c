# The paper's recipe on DINOv2-S: an eighth of the cost of DINOv2-L. With dinov2_pca, resnet50_pca and sam_pca, the
# backbones of the paper's ablation.
structurer = dict(
    type='PerceptualStructurer',
    backbone=dict(type='DINOv2Backbone', pretrained='facebook/dinov2-small', dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
