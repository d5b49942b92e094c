# Wan2.2 A14B, adapters on both of its networks, learns from VideoAlign by ViPO.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video_lora.py',
    '_base_/generators/wan22_a14b.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]
