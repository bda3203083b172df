# tools/train.py configs/gallery/segformer_head_effvim_m1.py \
#     --data-root data/ade/ADEChallengeData2016
#
# The head of SegFormer (arXiv 2105.15203).
# No published score. Not measured by us.
_base_ = '../semfpn_effvim_m1.py'
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[128, 192, 320],
        in_index=[0, 1, 2],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
