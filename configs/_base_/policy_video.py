# What the full-size configs of clips share: policy.py with prompts that describe motion.
_base_ = ['policy.py']

train_dataloader = dict(dataset=dict(file='vipo://prompts/video_train.txt'))
# 48 divide among 1, 2, 4 or 8 GPUs; 50 steps are the default of the Wan and HunyuanVideo pipelines
evaluation = dict(prompts='vipo://prompts/video_eval.txt', num_prompts=48, num_steps=50, batch_size=1)
