# The published schedule of the segmentors: AdamW, 40,000 iterations at batch 32, no warm-up, no
# clipping; weight decay on everything.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    # one beyond the last iteration, whose rate is then that of mmcv 1
    dict(type='PolyLR', power=0.9, eta_min=1e-6, begin=0, end=40001, by_epoch=False),
]
optim_wrapper = dict(
    type='OptimWrapper',
    accumulative_counts=1,  # batches whose gradients are accumulated for a step
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
