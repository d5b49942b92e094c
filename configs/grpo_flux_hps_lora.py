# Plain GRPO on the same model, reward and budget: one ratio and one advantage for the whole picture.
_base_ = ['vipo_flux_hps_lora.py']

structurer = None
loss = dict(mode='scalar')
