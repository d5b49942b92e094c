# Wan2.2 TI2V 5B, text to video, with adapters.
generator = dict(
    type='WanGenerator',
    pretrained='Wan-AI/Wan2.2-TI2V-5B-Diffusers',
    # the paper's 240x416 for Wan2.1 in the nearest multiples of 32, which this autoencoder needs
    resolution=(256, 416),
    # the paper's number for Wan2.1
    num_frames=53,
    # of classifier-free guidance, in two passes as in the pipeline; its default
    guidance_scale=5.0,
    # padding is attended to, and the model was trained with 512
    max_sequence_length=512,
    # the scheduler's own
    shift=5.0,
    # UMT5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # Flow-Factory's rank and alpha for Wan
    lora=dict(rank=64, alpha=128),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
