# Semantic FPN as published with EfficientViM-M4: mmseg's own neck and head on three maps.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='EfficientViM',
        arch='m4',
        out_indices=(0, 1, 2),
        norm_eval=True,
        with_cp=False,
        # The authors' averaged (EMA) ImageNet weights. Their published run started from the raw
        # ones, the entry `model` of their file: checkpoint='effvim://efficientvim_m4_e450_raw'.
        init_cfg=dict(type='Pretrained', checkpoint='timm/efficientvim_m4.e450_in1k'),
    ),
    # the fourth map is every second pixel of the third
    neck=dict(type='FPN', in_channels=[224, 320, 512], out_channels=256, num_outs=4),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[16, 32, 64, 128],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
tta_model = dict(type='SegTTAModel')
