# tools/train.py configs/gallery/cascade_rcnn_effvim_m1.py --data-root data/coco
#
# Cascade R-CNN (arXiv 1712.00726), mmdet's own.
# No published score. Not measured by us.
_base_ = [
    'mmdet::_base_/models/cascade-rcnn_r50_fpn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_1x.py',
    '../_base_/runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientViM',
        arch='m1',
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='timm/efficientvim_m1.e450_in1k'),
    ),
    neck=dict(
        _delete_=True,
        type='EfficientViMFPN',
        in_channels=[128, 192, 320],
        out_channels=256,
        num_transposed=2,
        num_outs=5,
    ),
)
tta_model = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
