# tools/train.py configs/gallery/yolox_effvim_m1.py --data-root data/coco
#
# YOLOX (arXiv 2107.08430), its head on strides 8 to 64.
# No published score. Not measured by us.
_base_ = '../rtmdet_effvim_m1.py'
model = dict(
    type='YOLOX',
    bbox_head=dict(
        _delete_=True,
        type='YOLOXHead',
        num_classes=80,
        in_channels=96,
        feat_channels=96,
        strides=[8, 16, 32, 64],
    ),
    train_cfg=dict(_delete_=True, assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(_delete_=True, score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
)
