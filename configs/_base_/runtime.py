# What every run shares: hooks, logging, processes.

default_hooks = dict(
    # order of work after an iteration: schedule, average, evaluate, save, log, report
    runtime_info=dict(type='RuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # atomic; load with weights_only=True; interval in policy iterations
    checkpoint=dict(type='PolicyCheckpointHook', interval=10, keep=2),
    ema=dict(type='EMAHook'),
    # interval 0: before training and at its end
    evaluation=dict(type='EvaluationHook', interval=0),
    # Two more that a config can add, with evaluation.interval above 0:
    # early_stop=dict(type='EarlyStopHook', patience=5, min_delta=0.0, metric='eval/reward') ends the run when so many
    #     evaluations in a row gave no better held-out score;
    # best=dict(type='BestCheckpointHook', metric='eval/reward') keeps the checkpoint with the best one as best.pth.
    report=dict(type='ReportHook', gallery=24),
)

# Add dict(type='WandbVisBackend', init_kwargs=dict(project='vipo')) for Weights & Biases.
visualizer = dict(
    type='Visualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
log_processor = dict(type='PolicyLogProcessor', by_epoch=False, mean_pattern=r'^(time|data_time)$')
log_level = 'INFO'
# timeout, in seconds: when no process gets on for so long, the run ends and names the one that the others wait for.
# It must be longer than any single step of the work: a micro-batch, a call of a reward.
env_cfg = dict(cudnn_benchmark=False, dist_cfg=dict(backend='nccl', timeout=1800))
# Everything random follows from this seed; --seed on the command line replaces it.
randomness = dict(seed=0)
default_scope = 'vipo'
