# tools/train.py configs/semfpn_effvim_m1.py --data-root data/ade/ADEChallengeData2016
#
# No published score. Not measured by us.
_base_ = 'semfpn_effvim_m4.py'
model = dict(
    backbone=dict(arch='m1', init_cfg=dict(checkpoint='timm/efficientvim_m1.e450_in1k')),
    neck=dict(in_channels=[128, 192, 320]),
)
