"""Fine-tuning on other classes: under any head every weight that belongs to no class is kept."""

import copy
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from backbone import UserError
from effvim.checkpoints.matching import fit_state_dict
from effvim.config.classes import class_layers
from effvim.config.editing import set_classes
from effvim.config.reading import import_plugins, load_config
from tests.helpers.paths import ROOT

CONFIGS = sorted([*(ROOT / 'configs').glob('*.py'), *(ROOT / 'configs/gallery').glob('*.py')])
# The layers that end in classes, by the file's name up to _effvim.
OF_CLASSES = {
    'atss': ['bbox_head.atss_cls'],
    'cascade_rcnn': [f'roi_head.bbox_head.{i}.fc_cls' for i in range(3)],  # boxes are of no class
    'deeplabv3plus': ['decode_head.conv_seg'],
    'deformable_detr': [f'bbox_head.cls_branches.{i}' for i in range(6)],
    'faster_rcnn': ['roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'],
    'fcn': ['decode_head.conv_seg'],
    'fcos': ['bbox_head.conv_cls'],
    'mask_rcnn': [
        'roi_head.bbox_head.fc_cls',
        'roi_head.bbox_head.fc_reg',
        'roi_head.mask_head.conv_logits',
    ],
    'retinanet': ['bbox_head.retina_cls'],
    'rtmdet': [f'bbox_head.rtm_cls.{i}' for i in range(4)],
    'rtmdet_ins': [f'bbox_head.rtm_cls.{i}' for i in range(4)],
    'segformer_head': ['decode_head.conv_seg'],
    'semfpn': ['decode_head.conv_seg'],
    'upernet': ['decode_head.conv_seg'],
    'yolox': [f'bbox_head.multi_level_conv_cls.{i}' for i in range(4)],
}


def read(path):
    cfg = load_config(str(path))
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    return cfg


def built(cfg, number):
    cfg = copy.deepcopy(cfg)
    set_classes(cfg, [str(i) for i in range(number)])
    return cfg, MODELS.build(copy.deepcopy(cfg.model))  # some detectors change what they get


def assert_kept(cfg, layers, before=80, after=7):
    """A model of `after` classes takes all from one of `before` but for these layers."""
    torch.manual_seed(0)
    state = built(cfg, before)[1].state_dict()
    for value in state.values():  # in place: some heads have one layer under several names
        value.random_(100)
    cfg, model = built(cfg, after)
    own = copy.deepcopy(model.state_dict())
    before_state = torch.get_rng_state()
    with pytest.raises(UserError, match='tensors differ in shape'):
        fit_state_dict(model, state, 'a.pth')
    model.load_state_dict(fit_state_dict(model, state, 'a.pth', partial(class_layers, cfg)))
    assert torch.equal(before_state, torch.get_rng_state())  # seeds mean what they did
    anew = {name for name in own if name.startswith(tuple(layers))}
    assert all(any(name.startswith(layer) for name in anew) for layer in layers)
    for name, value in model.state_dict().items():
        assert torch.equal(value, (own if name in anew else state)[name]), name


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_what_is_kept(path):
    assert_kept(read(path), OF_CLASSES[path.stem.partition('_effvim')[0]])


def test_auxiliary_heads_and_a_head_that_needs_storage():
    cfg = read(ROOT / 'configs/gallery/fcn_effvim_m1.py')
    head = dict(cfg.model.decode_head)
    cfg.model.auxiliary_head = [head, head]
    cfg.model.decode_head = dict(
        type='SegmenterMaskTransformerHead',
        in_channels=320,
        in_index=2,
        channels=64,
        num_classes=150,
        num_layers=1,
        num_heads=2,
        embed_dims=64,
    )
    assert_kept(
        cfg,
        [
            'auxiliary_head.0.conv_seg',
            'auxiliary_head.1.conv_seg',
            'decode_head.mask_norm',
            'decode_head.cls_emb',
        ],
    )


def test_classes_are_no_excuse_for_another_variant():
    cfg = read(ROOT / 'configs/retinanet_effvim_m1.py')
    state = built(read(ROOT / 'configs/retinanet_effvim_m2.py'), 80)[1].state_dict()
    cfg, model = built(cfg, 7)
    with pytest.raises(UserError, match='another variant.*backbone'):
        fit_state_dict(model, state, 'a.pth', partial(class_layers, cfg))
