"""Heads with fewer channels: tests that train for other reasons than results take half the time."""

RETINANET = [
    'model.neck.out_channels=64',
    'model.bbox_head.in_channels=64',
    'model.bbox_head.feat_channels=64',
    'model.bbox_head.stacked_convs=2',
]
MASK_RCNN = [
    'model.roi_head.bbox_head.fc_out_channels=128',
    'model.roi_head.mask_head.num_convs=1',
    'model.roi_head.mask_head.conv_out_channels=64',
]
