# tools/train.py configs/gallery/faster_rcnn_effvim_m1.py --data-root data/coco
#
# Faster R-CNN (arXiv 1506.01497), soft-NMS (arXiv 1704.04503).
# No published score. Not measured by us.
_base_ = [
    '../_base_/mask_rcnn.py',
    '../_base_/coco_detection.py',
    '../_base_/schedule_1x.py',
    '../_base_/runtime.py',
]
model = dict(
    type='FasterRCNN',
    backbone=dict(arch='m1', init_cfg=dict(checkpoint='timm/efficientvim_m1.e450_in1k')),
    neck=dict(in_channels=[128, 192, 320]),
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    test_cfg=dict(rcnn=dict(nms=dict(type='soft_nms', min_score=0.05))),
)
tta_model = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
