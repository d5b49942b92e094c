# Wan2.1 1.3B learns from VideoAlign by ViPO: clips of 53 frames, maps in space and time. The paper's settings.
# All 1.4 billion weights are trained; vipo_wan_videoalign_lora.py takes less memory.
_base_ = [
    '_base_/runtime.py',
    '_base_/policy_video_paper.py',
    '_base_/generators/wan21_1_3b.py',
    '_base_/rewards/videoalign.py',
    '_base_/structurers/dinov2_pca.py',
]

# the paper's rate for this model
optim_wrapper = dict(optimizer=dict(lr=5e-6))
