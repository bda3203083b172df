# tools/train.py configs/rtmdet_effvim_m1.py --data-root data/coco
#
# No published score. Not measured by us.
_base_ = 'rtmdet_effvim_m4.py'
model = dict(
    backbone=dict(arch='m1', init_cfg=dict(checkpoint='timm/efficientvim_m1.e450_in1k')),
    neck=dict(in_channels=[64, 128, 192, 320], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96),
)
