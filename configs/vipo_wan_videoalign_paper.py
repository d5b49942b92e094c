# The paper's own choices where ours differ from them and a way back exists; docs/paper.md gives the reasons.
_base_ = ['vipo_wan_videoalign.py']

structurer = dict(
    # the sign that PCA happens to give
    allocator=dict(orientation='as_computed'),
    # [0, 1]: how large a step is depends on the picture
    normalize='minmax',
)
ema = None
