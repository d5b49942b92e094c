# FLUX.1-dev at the paper's size (ViPO, arXiv 2511.18719, FLUX experiments).
generator = dict(
    type='FluxGenerator',
    # gated: accept its licence on the hub, or give a local folder
    pretrained='black-forest-labs/FLUX.1-dev',
    resolution=512,
    # the number that the distilled model takes as input; its published default
    guidance_scale=3.5,
    max_sequence_length=512,
    # static, as in the paper; the pipeline's own rule would give 1.88 at 512 px
    shift=3.0,
    # T5-XXL leaves memory before training begins
    prompt_cache='work_dirs/prompts',
    # all weights are trained; add lora=dict(rank=...) for adapters
    gradient_checkpointing=True,
    dtype='bfloat16',
)
