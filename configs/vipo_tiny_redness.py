# The paper's test of hacking: nothing but red is rewarded; the judges say how long the named objects survive.
_base_ = ['vipo_tiny_sd3.py']

reward = dict(_delete_=True, type='RednessReward')
eval_rewards = dict(hps=dict(type='HPSReward', checkpoint='vipo://tiny-hps'))
default_hooks = dict(evaluation=dict(interval=10))
