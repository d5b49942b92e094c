# The paper's recipe on the vision tower of CLIP ViT-L/14.
structurer = dict(
    type='PerceptualStructurer',
    # -2: a CLIP's last block serves its CLS token
    backbone=dict(type='CLIPBackbone', pretrained='openai/clip-vit-large-patch14', layer=-2, dtype='float32'),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
