# Plain GRPO on the same model, reward and budget: one ratio and one advantage for the whole picture.
_base_ = ['vipo_sd35_large_hps.py']

structurer = None
loss = dict(mode='scalar')
