"""The configs against the published recipe and against mmdet's own RetinaNet."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdet_plugin  # noqa: F401
from backbone import feature_info
from effvim.config.validation import check_model
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
WITH_GALLERY = [*CONFIGS, *sorted((ROOT / 'configs/gallery').glob('*.py'))]
RETINANETS = sorted((ROOT / 'configs').glob('retinanet_*.py'))


def read(path):
    return Config.fromfile(path)


def name(path: Path) -> str:
    return path.stem


def build(cfg):
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_opens_with_its_command_and_its_score(path):
    head = path.read_text().split('\n\n')[0] + path.read_text().split('_base_')[0]
    assert head.startswith(f'# tools/train.py configs/{path.name}')
    assert 'ublished' in head and 'easured by us' in head


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_neck_and_weights_belong_to_the_backbone(path):
    model = read(path).model
    arch = model.backbone.arch
    assert arch == path.stem.rsplit('_', 1)[1]
    info = feature_info(arch, out_stem=model.backbone.get('out_stem', False))
    assert list(model.neck.in_channels) == [i.channels for i in info]
    assert model.backbone.init_cfg.checkpoint == f'timm/efficientvim_{arch}.e450_in1k'


@pytest.mark.parametrize('path', WITH_GALLERY, ids=name)
def test_maps_have_the_strides_that_the_head_is_made_for(path):
    cfg = read(path)
    check_model(cfg)
    model = cfg.model
    head = model.get('rpn_head') or model.get('bbox_head') or {}
    strides = head.get('strides') or head.get('anchor_generator', {}).get('strides')
    if not strides:
        pytest.skip('a head without strides')
    init_default_scope('mmdet')
    with torch.device('meta'):
        maps = MODELS.build(model).eval().extract_feat(torch.empty(1, 3, 256, 256))
    assert [256 // m.shape[-1] for m in maps] == list(strides)


@pytest.mark.parametrize('path', RETINANETS, ids=name)
def test_head_training_and_test_settings_are_mmdets(path, standard_retinanet):
    cfg = read(path)
    for key in ('bbox_head', 'train_cfg', 'test_cfg', 'data_preprocessor'):
        ours, theirs = copy.deepcopy(cfg.model[key]), copy.deepcopy(standard_retinanet.model[key])
        theirs.pop('type', None), ours.pop('type', None)
        assert ours == theirs, key
    assert cfg.model.bbox_head.type == standard_retinanet.model.bbox_head.type
    assert cfg.train_pipeline == standard_retinanet.train_pipeline
    assert cfg.test_pipeline == standard_retinanet.test_pipeline
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset == standard_retinanet[loader].dataset, loader
        assert cfg[loader].sampler == standard_retinanet[loader].sampler


@pytest.mark.parametrize('path', RETINANETS, ids=name)
def test_built_heads_assigners_and_samplers_are_mmdets(path, standard_retinanet):
    cfg = read(path)
    cfg.model.backbone.init_cfg = standard_retinanet.model.backbone.init_cfg = None
    ours, theirs = build(cfg).bbox_head, build(standard_retinanet).bbox_head
    assert str(ours) == str(theirs)
    for part in ('assigner', 'sampler', 'bbox_coder', 'prior_generator', 'loss_cls', 'loss_bbox'):
        a, b = getattr(ours, part), getattr(theirs, part)
        assert type(a) is type(b)
        plain = {k: v for k, v in vars(a).items() if isinstance(v, (int, float, str, bool, tuple))}
        assert plain == {k: vars(b)[k] for k in plain}, part
    assert ours.prior_generator.strides == [(s, s) for s in (8, 16, 32, 64, 128)]
    assert ours.test_cfg == theirs.test_cfg


def test_published_number_of_parameters():
    model = build(read(ROOT / 'configs/retinanet_effvim_m4.py'))
    assert model.bbox_head.num_classes == 80
    assert sum(p.numel() for p in model.parameters()) == 28_570_425


@pytest.mark.parametrize('path', RETINANETS, ids=name)
def test_outputs_have_the_strides_of_the_anchors(path):
    model = build(read(path)).eval()
    with torch.no_grad():
        maps = model.extract_feat(torch.randn(1, 3, 128, 256))
    assert [tuple(m.shape[2:]) for m in maps] == [
        (128 // s, 256 // s) for s in (8, 16, 32, 64, 128)
    ]
