# tools/train.py configs/rtmdet_ins_effvim_m4.py --data-root data/coco
#
# No published score. Not measured by us.
_base_ = ['_base_/rtmdet.py', '_base_/coco_640_instance.py', '_base_/schedule_300e.py']

model = dict(
    bbox_head=dict(
        type='RTMDetInsSepBNHead',
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'),
    ),
    test_cfg=dict(
        nms_pre=1000,
        score_thr=0.05,
        nms=dict(iou_threshold=0.6),
        max_per_img=100,
        mask_thr_binary=0.5,
    ),
)
# the last epochs without mosaic and mixup
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='PipelineSwitchHook', switch_epoch=280, switch_pipeline=_base_.plain_pipeline),
]
