# tools/train.py configs/gallery/deformable_detr_effvim_m1.py --data-root data/coco
#
# Deformable DETR (arXiv 2010.04159), its attention on strides 16 to 128.
# No published score. Not measured by us.
_base_ = '../retinanet_effvim_m1.py'
attention = dict(embed_dims=256, num_levels=4)
model = dict(
    type='DeformableDETR',
    num_queries=300,
    num_feature_levels=4,
    neck=dict(
        _delete_=True,
        type='ChannelMapper',
        in_channels=[128, 192, 320],
        out_channels=256,
        kernel_size=1,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=4,
    ),
    encoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=attention, ffn_cfg=dict(embed_dims=256, feedforward_channels=1024)),
    ),
    decoder=dict(
        num_layers=6,
        return_intermediate=True,
        post_norm_cfg=None,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.1),
            cross_attn_cfg=attention,
            ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1),
        ),
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=-0.5),
    bbox_head=dict(
        _delete_=True,
        type='DeformableDETRHead',
        num_classes=80,
        sync_cls_avg_factor=True,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        _delete_=True,
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        ),
    ),
    test_cfg=dict(_delete_=True, max_per_img=100),
)
# the paper's: a tenth of the rate for the backbone and for where attention looks
optim_wrapper = dict(
    optimizer=dict(weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            sampling_offsets=dict(lr_mult=0.1),
            reference_points=dict(lr_mult=0.1),
        ),
    ),
)
