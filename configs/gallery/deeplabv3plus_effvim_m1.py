# tools/train.py configs/gallery/deeplabv3plus_effvim_m1.py \
#     --data-root data/ade/ADEChallengeData2016
#
# DeepLabV3+ (arXiv 1802.02611), its pyramid of dilations on strides 32 and 64 joined.
# No published score. Not measured by us.
_base_ = '../semfpn_effvim_m1.py'
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=[192, 320],
        in_index=[1, 2],
        input_transform='resize_concat',  # at stride 32
        dilations=(1, 3, 6, 9),  # in pixels the same as 6, 12, 18 at stride 16
        c1_in_channels=128,  # the decoder's second input: the finest map
        c1_channels=48,
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
