# tools/train.py configs/gallery/deformable_detr_effvim_m1.py --data-root data/coco
#
# Deformable DETR (arXiv 2010.04159), mmdet's own whole config, on strides 16 to 128.
# No published score. Not measured by us.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'
custom_imports = dict(imports=['mmdet_plugin', 'effvim.checkpoints'])  # the latter: effvim://…
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientViM',
        arch='m1',
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='timm/efficientvim_m1.e450_in1k'),
    ),
    neck=dict(in_channels=[128, 192, 320]),
)
