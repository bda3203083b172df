# tools/train.py configs/rtmdet_effvim_m4.py --data-root data/coco
#
# No published score. Not measured by us.
_base_ = ['_base_/rtmdet.py', '_base_/coco_640.py', '_base_/schedule_300e.py']

# the last epochs without mosaic and mixup
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='PipelineSwitchHook', switch_epoch=280, switch_pipeline=_base_.plain_pipeline),
]
