# Plain GRPO on the same model, reward and budget: one ratio and one advantage for the whole clip.
_base_ = ['vipo_wan14b_videoalign.py']

structurer = None
loss = dict(mode='scalar')
