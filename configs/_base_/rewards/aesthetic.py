# LAION aesthetic score v2. Its head lies on GitHub: without reward.head=FILE the error says where.
reward = dict(type='AestheticReward', head=None, batch_size=16, dtype='float32')
