# Wan2.2 5B with adapters learns from VideoAlign by ViPO.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video_lora.py',
    '_base_/generators/wan22_5b.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]
