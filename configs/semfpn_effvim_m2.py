# tools/train.py configs/semfpn_effvim_m2.py --data-root data/ade/ADEChallengeData2016
#
# No published score. Not measured by us.
_base_ = 'semfpn_effvim_m4.py'
model = dict(
    backbone=dict(arch='m2', init_cfg=dict(checkpoint='timm/efficientvim_m2.e450_in1k')),
    neck=dict(in_channels=[128, 256, 512]),
)
