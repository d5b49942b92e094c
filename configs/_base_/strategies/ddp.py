# Every rank has the whole model: LoRA, and small models.
strategy = dict(type='DDP')
