# CLIPScore. variant: 'cosine', 'torchmetrics', 'paper' or 'logit', see the class.
reward = dict(type='CLIPScoreReward', variant='cosine', batch_size=16, dtype='float32')
