# As runtime.py, for mmseg: counted in iterations instead of epochs.
_base_ = 'runtime.py'
custom_imports = dict(imports=['mmseg_plugin', 'effvim.checkpoints'])  # the latter: effvim://…
default_scope = 'mmseg'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=4000, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'),
)
visualizer = dict(type='SegLocalVisualizer')
log_processor = dict(by_epoch=False)
