# The paper's recipe on the image encoder of SAM 2.1, base plus.
structurer = dict(
    type='PerceptualStructurer',
    # -2: stride 16, 448 channels
    backbone=dict(type='TimmBackbone', model='sam2_hiera_base_plus.fb_r896_2pt1', stages=-2, dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
