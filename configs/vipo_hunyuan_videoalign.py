# HunyuanVideo with adapters learns from VideoAlign by ViPO. Steps, eta and groups are DanceGRPO's for this model.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video_lora.py',
    '_base_/generators/hunyuan_video.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]

# groups of 24 are DanceGRPO's; 8 prompts divide among 1, 2, 4 or 8 GPUs
batch = dict(prompts_per_iteration=8, group_size=24)
