# The paper's recipe on a ResNet-50, of the paper's ablation. The stage is ours: the paper names none.
structurer = dict(
    type='PerceptualStructurer',
    # -2: stride 16, 1024 channels; stages=(2, 3, 4) joins three at stride 8
    backbone=dict(type='TimmBackbone', model='resnet50.a1_in1k', stages=-2, dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
