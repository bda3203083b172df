auto_scale_lr = dict(base_batch_size=16, enable=False)
backend_args = None
custom_hooks = [
    dict(interval=50, type='ProgressHook'),
    dict(type='ResumeHook'),
    dict(skip=0, type='GuardHook'),
    dict(type='CurvesHook'),
    dict(folder='det/pictures', type='PicturesHook'),
]
custom_imports = dict(
    imports=[
        'mmdet_plugin',
    ]
)
data_root = 'data/coco/'
dataset_type = 'CocoDataset'
default_hooks = dict(
    checkpoint=dict(
        backend_args=dict(backend='whole_file'),
        interval=1,
        max_keep_ckpts=3,
        type='WholeCheckpointHook',
    ),
    logger=dict(interval=50, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='DetVisualizationHook'),
)
default_scope = 'mmdet'
env_cfg = dict(
    cudnn_benchmark=False,
    dist_cfg=dict(backend='gloo'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
)
launcher = 'none'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
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
        init_cfg=None,
        norm_eval=True,
        out_indices=(
            0,
            1,
            2,
        ),
        type='EfficientViM',
        with_cp=False,
    ),
    bbox_head=dict(
        anchor_generator=dict(
            octave_base_scale=4,
            ratios=[
                0.5,
                1.0,
                2.0,
            ],
            scales_per_octave=3,
            strides=[
                8,
                16,
                32,
                64,
                128,
            ],
            type='AnchorGenerator',
        ),
        bbox_coder=dict(
            target_means=[
                0.0,
                0.0,
                0.0,
                0.0,
            ],
            target_stds=[
                1.0,
                1.0,
                1.0,
                1.0,
            ],
            type='DeltaXYWHBBoxCoder',
        ),
        feat_channels=16,
        in_channels=16,
        loss_bbox=dict(loss_weight=1.0, type='L1Loss'),
        loss_cls=dict(alpha=0.25, gamma=2.0, loss_weight=1.0, type='FocalLoss', use_sigmoid=True),
        num_classes=3,
        stacked_convs=1,
        type='RetinaHead',
    ),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='DetDataPreprocessor',
    ),
    neck=dict(
        in_channels=[
            8,
            16,
            16,
        ],
        num_outs=5,
        num_transposed=1,
        out_channels=16,
        type='EfficientViMFPN',
    ),
    test_cfg=dict(
        max_per_img=20,
        min_bbox_size=0,
        nms=dict(iou_threshold=0.5, type='nms'),
        nms_pre=1000,
        score_thr=0.0,
    ),
    train_cfg=dict(
        allowed_border=-1,
        assigner=dict(
            ignore_iof_thr=-1,
            min_pos_iou=0,
            neg_iou_thr=0.4,
            pos_iou_thr=0.5,
            type='MaxIoUAssigner',
        ),
        debug=False,
        pos_weight=-1,
        sampler=dict(type='PseudoSampler'),
    ),
    type='RetinaNet',
)
model_wrapper_cfg = dict(broadcast_buffers=False, device_ids=None, type='MMDistributedDataParallel')
optim_wrapper = dict(
    accumulative_counts=1,
    optimizer=dict(
        betas=(
            0.9,
            0.999,
        ),
        lr=0.0002,
        type='AdamW',
        weight_decay=0.05,
    ),
    type='OptimWrapper',
)
param_scheduler = [
    dict(begin=0, by_epoch=False, end=500, start_factor=0.001, type='LinearLR'),
    dict(
        begin=0,
        by_epoch=True,
        end=12,
        gamma=0.1,
        milestones=[
            8,
            11,
        ],
        type='MultiStepLR',
    ),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        backend_args=None,
        data_prefix=dict(img='val2017/'),
        data_root='data/coco/',
        metainfo=dict(
            classes=(
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(backend_args=None, type='LoadImageFromFile'),
            dict(
                keep_ratio=True,
                scale=(
                    192,
                    192,
                ),
                type='Resize',
            ),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs',
            ),
        ],
        test_mode=True,
        type='CocoDataset',
    ),
    drop_last=False,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
test_evaluator = dict(
    ann_file='data/coco/annotations/instances_val2017.json',
    backend_args=None,
    metric='bbox',
    type='FullCocoMetric',
)
test_pipeline = [
    dict(backend_args=None, type='LoadImageFromFile'),
    dict(
        keep_ratio=True,
        scale=(
            192,
            192,
        ),
        type='Resize',
    ),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        meta_keys=(
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'scale_factor',
        ),
        type='PackDetInputs',
    ),
]
train_cfg = dict(max_epochs=1, type='EpochBasedTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    batch_size=4,
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        backend_args=None,
        data_prefix=dict(img='train2017/'),
        data_root='data/coco/',
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        metainfo=dict(
            classes=(
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(backend_args=None, type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                keep_ratio=True,
                scale=(
                    192,
                    192,
                ),
                type='Resize',
            ),
            dict(prob=0.5, type='RandomFlip'),
            dict(type='PackDetInputs'),
        ],
        type='CocoDataset',
    ),
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='DefaultSampler'),
)
train_pipeline = [
    dict(backend_args=None, type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        keep_ratio=True,
        scale=(
            1333,
            800,
        ),
        type='Resize',
    ),
    dict(prob=0.5, type='RandomFlip'),
    dict(type='PackDetInputs'),
]
tta_model = dict(
    tta_cfg=dict(max_per_img=100, nms=dict(iou_threshold=0.5, type='nms')), type='DetTTAModel'
)
tta_pipeline = [
    dict(backend_args=None, type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(
                    keep_ratio=True,
                    scale=(
                        1333,
                        800,
                    ),
                    type='Resize',
                ),
            ],
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='LoadAnnotations', with_bbox=True),
            ],
            [
                dict(
                    meta_keys=(
                        'img_id',
                        'img_path',
                        'ori_shape',
                        'img_shape',
                        'scale_factor',
                        'flip',
                        'flip_direction',
                    ),
                    type='PackDetInputs',
                ),
            ],
        ],
        type='TestTimeAug',
    ),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        backend_args=None,
        data_prefix=dict(img='val2017/'),
        data_root='data/coco/',
        metainfo=dict(
            classes=(
                'disc',
                'triangle',
                'cross',
            )
        ),
        pipeline=[
            dict(backend_args=None, type='LoadImageFromFile'),
            dict(
                keep_ratio=True,
                scale=(
                    192,
                    192,
                ),
                type='Resize',
            ),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
                type='PackDetInputs',
            ),
        ],
        test_mode=True,
        type='CocoDataset',
    ),
    drop_last=False,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=False, type='DefaultSampler'),
)
val_evaluator = dict(
    ann_file='data/coco/annotations/instances_val2017.json',
    backend_args=None,
    metric='bbox',
    type='FullCocoMetric',
)
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    type='DetLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ],
)
work_dir = 'det'
