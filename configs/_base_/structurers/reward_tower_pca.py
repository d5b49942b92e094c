# The paper's recipe on the vision tower of the run's own reward: no second model in memory. For rewards made of a CLIP.
structurer = dict(
    type='PerceptualStructurer',
    # -2: a CLIP's last block serves its CLS token; part='NAME' chooses among the parts of a WeightedReward
    backbone=dict(type='RewardTowerBackbone', layer=-2),
    allocator=dict(type='PCAAllocator', components=3, combine='variance', sigma=1.0, orientation='center'),
    normalize='mean',
)
