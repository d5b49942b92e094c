# Wan2.1 T2V 14B with adapters, at the size and shift at which the paper trains the 1.3B model.
generator = dict(
    type='WanGenerator',
    pretrained='Wan-AI/Wan2.1-T2V-14B-Diffusers',
    resolution=(240, 416),
    num_frames=53,
    # of classifier-free guidance, in two passes as in the pipeline; its default
    guidance_scale=5.0,
    # padding is attended to, and the model was trained with 512
    max_sequence_length=512,
    shift=8.0,
    # UMT5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # Flow-Factory's rank and alpha for this model; masters, gradients and Adam's moments of all weights are 230 GB
    lora=dict(rank=64, alpha=128),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
