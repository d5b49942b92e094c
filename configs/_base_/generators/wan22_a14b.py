# Wan2.2 T2V A14B with adapters on both networks, at the size at which the paper trains Wan2.1 1.3B.
generator = dict(
    type='WanGenerator',
    pretrained='Wan-AI/Wan2.2-T2V-A14B-Diffusers',
    resolution=(240, 416),
    num_frames=53,
    # of classifier-free guidance, in two passes as in the pipeline; the published pair for much and for little noise
    guidance_scale=4.0,
    low_noise_guidance_scale=3.0,
    # padding is attended to, and the model was trained with 512
    max_sequence_length=512,
    # the scheduler's own, which Flow-Factory trains with. A larger shift leaves fewer steps to the second network:
    # of 16 it gets 7 with a shift of 8, and 11 with 3
    shift=3.0,
    # UMT5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # Flow-GRPO's rank and alpha for Wan. Both networks stay on the GPU in bfloat16, 57 GB: of each of 8 GPUs
    # tools/plan.py counts 76 GB with rank 32, and 84 with Flow-Factory's 64
    lora=dict(rank=32, alpha=64),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
