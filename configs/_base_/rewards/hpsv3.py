# Human Preference Score v3.
reward = dict(
    type='HPSv3Reward',
    # the authors' instruction text, which is not part of this package; the error message says where to get it
    template='data/hpsv3/data_collator_qwen.py',
    batch_size=8,
    dtype='bfloat16',
)
