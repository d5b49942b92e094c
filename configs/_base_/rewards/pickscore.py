# PickScore v1. scale=26 brings it to about 1, as published trainers have it.
reward = dict(type='PickScoreReward', scale=1.0, batch_size=16, dtype='float32')
