# Stable Diffusion 3.5 medium.
generator = dict(
    type='SD3Generator',
    # gated: accept its licence on the hub, or give a local folder
    pretrained='stabilityai/stable-diffusion-3.5-medium',
    resolution=512,
    # of classifier-free guidance, in rollout and replay; the model page's default
    guidance_scale=4.5,
    # T5 tokens; Flow-GRPO's choice, half of the pipeline's
    max_sequence_length=128,
    # T5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # rank and alpha of Flow-GRPO's published adapters
    lora=dict(rank=32, alpha=64),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
