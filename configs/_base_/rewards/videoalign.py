# VideoAlign (VideoReward): visual quality and motion quality, as in the paper.
reward = dict(
    type='VideoAlignReward',
    # the paper's sum of two; TA (text alignment) is logged beside them
    weights=dict(VQ=1.0, MQ=1.0),
    # the authors' instruction text, which is not part of this package; the error message says where to get it
    template='data/videoalign/prompt_template.py',
    # frames a second that a clip is said to have, as in DanceGRPO and the paper: 53 frames are looked at 14 times
    fps=8.0,
    batch_size=4,
    dtype='bfloat16',
)
