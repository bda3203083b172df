# tools/train.py configs/gallery/fcos_effvim_m1.py --data-root data/coco
#
# FCOS (arXiv 1904.01355), modulated deformable convolutions (arXiv 1811.11168) in
# its towers.
# No published score. Not measured by us.
_base_ = '../retinanet_effvim_m1.py'
model = dict(
    type='FCOS',
    bbox_head=dict(
        _delete_=True,
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        dcn_on_last_conv=True,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
    ),
    train_cfg=None,
)
