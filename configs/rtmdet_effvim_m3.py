# tools/train.py configs/rtmdet_effvim_m3.py --data-root data/coco
#
# No published score. Not measured by us.
_base_ = 'rtmdet_effvim_m4.py'
model = dict(
    backbone=dict(arch='m3', init_cfg=dict(checkpoint='timm/efficientvim_m3.e450_in1k')),
)
