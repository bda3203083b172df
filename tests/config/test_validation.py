"""Parts of a config that do not fit each other, found before anything is built."""

import re

import pytest
from mmengine.config import Config

from backbone.errors import UserError
from effvim.config.editing import apply_options
from effvim.config.validation import check_model
from tests.helpers.paths import ROOT

RESIZE = dict(type='BatchSyncRandomResize', random_size_range=(320, 960))

WRONG = [
    ('retinanet_effvim_m1', {'+model.backbone.out_stem': True}, 'set model.neck.in_channels'),
    # done as the message says: anchors of other strides than the maps
    (
        'retinanet_effvim_m1',
        {'+model.backbone.out_stem': True, 'model.neck.in_channels': [64, 128, 192, 320]},
        'maps of strides [4, 8, 16, 32, 64]',
    ),
    ('rtmdet_effvim_m1', {'model.neck.in_channels': 112}, 'model.neck.in_channels is 112'),
    ('retinanet_effvim_m1', {'+model.backbone.out_stem': 'no'}, 'out_stem must be True or False'),
    ('retinanet_effvim_m1', {'model.neck.num_outs': 4}, 'maps of strides [8, 16, 32, 64]'),
    ('mask_rcnn_effvim_m1', {'model.neck.num_transposed': 1}, 'model.rpn_head'),
    (
        'rtmdet_effvim_m1',
        {'model.neck.in_channels': [128, 192, 320]},
        'set model.neck.in_channels, or model.backbone.out_stem=False',
    ),
    (
        'rtmdet_effvim_m1',
        {'model.neck.in_channels': [128, 192, 320], 'model.backbone.out_stem': False},
        'maps of strides [16, 32, 64]',
    ),
    (
        'rtmdet_effvim_m1',
        {
            'model.data_preprocessor.pad_size_divisor': 32,
            'test_dataloader.dataset.pipeline.2.size': (416, 416),
        },
        'set model.data_preprocessor.pad_size_divisor=64',
    ),
    (
        'rtmdet_effvim_m1',
        {'+model.data_preprocessor.batch_augments': [RESIZE]},
        'set size_divisor=64 in model.data_preprocessor.batch_augments.0',
    ),
    ('gallery/fcn_effvim_m1', {'+model.backbone.out_stem': True}, 'set in_index and in_channels'),
]

RIGHT = [
    # images that the pipeline itself pads need no second padding
    ('rtmdet_effvim_m1', {'model.data_preprocessor.pad_size_divisor': 1}),
    (
        'rtmdet_effvim_m1',
        {'+model.data_preprocessor.batch_augments': [dict(RESIZE, size_divisor=64)]},
    ),
    ('gallery/fcn_effvim_m1', {'model.decode_head.in_index': [-3, -2, -1]}),
    ('retinanet_effvim_m1', {'model.neck.type': 'FPN'}),  # its levels are not known here
]


def read(name, options):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py', import_custom_modules=False)
    check_model(cfg)
    apply_options(cfg, options)
    return cfg


@pytest.mark.parametrize(('config', 'options', 'words'), WRONG, ids=str)
def test_what_does_not_fit_is_said(config, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        check_model(read(config, options))


@pytest.mark.parametrize(('config', 'options'), RIGHT, ids=str)
def test_what_fits_is_accepted(config, options):
    check_model(read(config, options))
