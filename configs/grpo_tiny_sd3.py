# Plain GRPO: one ratio and one advantage for the whole picture. Differs from ViPO in nothing else.
_base_ = ['vipo_tiny_sd3.py']

structurer = None
loss = dict(mode='scalar')
