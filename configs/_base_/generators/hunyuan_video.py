# HunyuanVideo with adapters, at the size, guidance and shift of DanceGRPO's run, which trained all weights.
generator = dict(
    type='HunyuanVideoGenerator',
    pretrained='hunyuanvideo-community/HunyuanVideo',
    resolution=480,
    num_frames=53,
    # the number that the distilled model takes as input
    guidance_scale=6.018,
    # Llama tokens after the template; the pipeline's default
    max_sequence_length=256,
    shift=5.0,
    # the autoencoder's own size of tiles; a clip is decoded in 2.7 GB in place of 9.1, as tools/plan.py counts
    decode_tile=256,
    # Llama leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # Flow-Factory's rank and alpha for FLUX and Wan; masters, gradients and Adam's moments of all weights are 205 GB
    lora=dict(rank=64, alpha=128),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
