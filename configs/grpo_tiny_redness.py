# The redness test for plain GRPO. Differs from ViPO's in nothing else.
_base_ = ['vipo_tiny_redness.py']

structurer = None
loss = dict(mode='scalar')
