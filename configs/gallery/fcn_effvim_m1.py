# tools/train.py configs/gallery/fcn_effvim_m1.py --data-root data/ade/ADEChallengeData2016
#
# FCN (arXiv 1411.4038) on all maps, joined at stride 16.
# No published score. Not measured by us.
_base_ = '../semfpn_effvim_m1.py'
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[128, 192, 320],
        in_index=[0, 1, 2],
        input_transform='resize_concat',
        num_convs=2,
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
