# ImageReward v1.
reward = dict(type='ImageReward', batch_size=16, dtype='float32')
