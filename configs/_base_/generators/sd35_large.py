# Stable Diffusion 3.5 large with adapters. No reference of ours trains it: sizes are Flow-GRPO's for the medium model.
generator = dict(
    type='SD3Generator',
    # gated: accept its licence on the hub, or give a local folder
    pretrained='stabilityai/stable-diffusion-3.5-large',
    resolution=512,
    # of classifier-free guidance, in rollout and replay
    guidance_scale=4.5,
    # T5 tokens; half of the pipeline's
    max_sequence_length=128,
    # T5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # the base stays in bfloat16, 16 GB in place of 129 GB of masters, gradients and Adam's moments
    lora=dict(rank=32, alpha=64),
    gradient_checkpointing=True,
    dtype='bfloat16',
)
