# Wan2.1 T2V 1.3B at the paper's size (ViPO, arXiv 2511.18719, Wan experiments).
generator = dict(
    type='WanGenerator',
    pretrained='Wan-AI/Wan2.1-T2V-1.3B-Diffusers',
    resolution=(240, 416),
    num_frames=53,
    # of classifier-free guidance, in two passes as in the pipeline; its default
    guidance_scale=5.0,
    # padding is attended to, and the model was trained with 512
    max_sequence_length=512,
    shift=8.0,
    # UMT5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    gradient_checkpointing=True,
    dtype='bfloat16',
)
