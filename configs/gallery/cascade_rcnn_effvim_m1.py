# tools/train.py configs/gallery/cascade_rcnn_effvim_m1.py --data-root data/coco
#
# Cascade R-CNN (arXiv 1712.00726).
# No published score. Not measured by us.
_base_ = [
    '../_base_/mask_rcnn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_1x.py',
    '../_base_/runtime.py',
]

stages = [(0.5, 0.1, 0.2, 1.0), (0.6, 0.05, 0.1, 0.5), (0.7, 0.033, 0.067, 0.25)]
model = dict(
    type='CascadeRCNN',
    backbone=dict(arch='m1', init_cfg=dict(checkpoint='timm/efficientvim_m1.e450_in1k')),
    neck=dict(in_channels=[128, 192, 320]),
    roi_head=dict(
        _delete_=True,
        type='CascadeRoIHead',
        num_stages=len(stages),
        stage_loss_weights=[weight for _, _, _, weight in stages],
        bbox_roi_extractor=_base_.model.roi_head.bbox_roi_extractor,
        bbox_head=[
            dict(
                _base_.model.roi_head.bbox_head,
                reg_class_agnostic=True,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[centre, centre, extent, extent],
                ),
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
            )
            for _, centre, extent, _ in stages
        ],
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                _base_.model.train_cfg.rcnn,
                assigner=dict(
                    type='MaxIoUAssigner',
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
            )
            for iou, _, _, _ in stages
        ],
    ),
)
