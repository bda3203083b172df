auto_scale_lr = dict(base_batch_size=32, enable=False)
custom_hooks = [
    dict(interval=50, type='ProgressHook'),
    dict(type='ResumeHook'),
    dict(skip=0, type='GuardHook'),
    dict(type='CurvesHook'),
    dict(folder='seg/pictures', type='PicturesHook'),
]
custom_imports = dict(
    imports=[
        'mmseg_plugin',
    ]
)
data_root = 'data/mini-ade/'
dataset_type = 'ADE20KDataset'
default_hooks = dict(
    checkpoint=dict(
        backend_args=dict(backend='whole_file'),
        by_epoch=False,
        interval=8,
        max_keep_ckpts=2,
        type='WholeCheckpointHook',
    ),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'),
)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='gloo'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
)
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False, type='LogProcessor', window_size=50)
model = dict(
    backbone=dict(
        arch=dict(
            depths=(
                1,
                1,
                1,
            ),
            state_dims=(
                4,
                4,
                4,
            ),
            widths=(
                8,
                16,
                16,
            ),
        ),
        frozen_stages=-1,
        init_cfg=None,
        norm_eval=False,
        out_indices=(
            0,
            1,
            2,
        ),
        type='EfficientViM',
        with_cp=False,
    ),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            256,
            256,
        ),
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='SegDataPreProcessor',
    ),
    decode_head=dict(
        align_corners=False,
        channels=16,
        dropout_ratio=0.1,
        feature_strides=[
            16,
            32,
            64,
            128,
        ],
        in_channels=[
            16,
            16,
            16,
            16,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(num_groups=8, requires_grad=True, type='GN'),
        num_classes=4,
        type='FPNHead',
    ),
    neck=dict(
        in_channels=[
            8,
            16,
            16,
        ],
        norm_cfg=dict(num_groups=8, requires_grad=True, type='GN'),
        num_outs=4,
        out_channels=16,
        type='FPN',
    ),
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder',
)
model_wrapper_cfg = dict(broadcast_buffers=False, device_ids=None, type='MMDistributedDataParallel')
optim_wrapper = dict(
    accumulative_counts=1,
    clip_grad=dict(max_norm=3, norm_type=2),
    optimizer=dict(
        betas=(
            0.9,
            0.999,
        ),
        fused=True,
        lr=0.0005,
        type='AdamW',
        weight_decay=0.0001,
    ),
    type='OptimWrapper',
)
param_scheduler = [
    dict(begin=0, by_epoch=False, end=50, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=1200, begin=0, by_epoch=False, end=1200, eta_min_ratio=0.01, type='CosineAnnealingLR'
    ),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        data_root='data/mini-ade/',
        img_suffix='.bmp',
        metainfo=dict(
            classes=(
                'ground',
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                keep_ratio=True,
                scale=(
                    320,
                    320,
                ),
                type='Resize',
            ),
            dict(size_divisor=32, type='ResizeToMultiple'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.bmp',
        type='BaseSegDataset',
    ),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
test_evaluator = dict(
    leave_out=[
        'ground',
    ],
    type='FullIoUMetric',
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        keep_ratio=True,
        scale=(
            320,
            320,
        ),
        type='Resize',
    ),
    dict(size_divisor=32, type='ResizeToMultiple'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_iters=8, type='IterBasedTrainLoop', val_interval=8)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        data_root='data/mini-ade/',
        img_suffix='.bmp',
        metainfo=dict(
            classes=(
                'ground',
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(
                keep_ratio=True,
                ratio_range=(
                    0.8,
                    1.2,
                ),
                scale=(
                    320,
                    320,
                ),
                type='RandomResize',
            ),
            dict(
                cat_max_ratio=0.75,
                crop_size=(
                    256,
                    256,
                ),
                type='RandomCrop',
            ),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.bmp',
        type='BaseSegDataset',
    ),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='InfiniteSampler'),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        keep_ratio=True,
        ratio_range=(
            0.5,
            2.0,
        ),
        scale=(
            2048,
            512,
        ),
        type='RandomResize',
    ),
    dict(
        cat_max_ratio=0.75,
        crop_size=(
            512,
            512,
        ),
        type='RandomCrop',
    ),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(
                    keep_ratio=True,
                    scale=(
                        320,
                        320,
                    ),
                    type='Resize',
                ),
            ],
            [
                dict(size_divisor=32, type='ResizeToMultiple'),
            ],
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='LoadAnnotations'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug',
    ),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        data_root='data/mini-ade/',
        img_suffix='.bmp',
        metainfo=dict(
            classes=(
                'ground',
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                keep_ratio=True,
                scale=(
                    320,
                    320,
                ),
                type='Resize',
            ),
            dict(size_divisor=32, type='ResizeToMultiple'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        reduce_zero_label=True,
        seg_map_suffix='.bmp',
        type='BaseSegDataset',
    ),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(
    leave_out=[
        'ground',
    ],
    type='FullIoUMetric',
)
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ],
)
work_dir = 'seg'
