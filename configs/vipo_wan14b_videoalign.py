# Wan2.1 14B with adapters learns from VideoAlign by ViPO. Sampling is the paper's for the 1.3B model.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video_lora.py',
    '_base_/generators/wan21_14b.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]
