# Human Preference Score v2.1.
reward = dict(type='HPSReward', version='v2.1', batch_size=16, dtype='float32')
