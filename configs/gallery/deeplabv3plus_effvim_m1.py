# tools/train.py configs/gallery/deeplabv3plus_effvim_m1.py \
#     --data-root data/ade/ADEChallengeData2016
#
# DeepLabV3+ (arXiv 1802.02611).
# No published score. Not measured by us.
_base_ = '../semfpn_effvim_m1.py'
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=192,  # of stride 32; the finest map joins below
        in_index=1,
        dilations=(1, 2, 4, 6),
        c1_in_channels=128,
        c1_channels=48,
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
