"""Mask R-CNN: mmdet's standard heads, real masks through the commands, bad masks named."""

import json
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import mmdet_plugin  # noqa: F401
from effvim.datasets import coco
from tests.helpers.cli import run_command
from tests.helpers.coco import assert_equals_pycocotools
from tests.helpers.paths import ROOT
from tests.helpers.training import MASK_RCNN

CONFIGS = sorted((ROOT / 'configs').glob('mask_rcnn_*.py'))


def build(cfg):
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_all_but_backbone_neck_and_batch_is_mmdets(path, standard_mask_rcnn):
    cfg = Config.fromfile(path)
    for key in standard_mask_rcnn.model.keys() - {'backbone', 'neck'}:
        assert cfg.model[key] == standard_mask_rcnn.model[key], key
    assert cfg.model.keys() == standard_mask_rcnn.model.keys()
    assert cfg.train_pipeline == standard_mask_rcnn.train_pipeline
    assert cfg.test_pipeline == standard_mask_rcnn.test_pipeline
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset == standard_mask_rcnn[loader].dataset, loader
    assert cfg.val_evaluator.metric == standard_mask_rcnn.val_evaluator.metric == ['bbox', 'segm']


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_built_heads_are_mmdets_at_the_published_strides(path, standard_mask_rcnn):
    ours, theirs = build(Config.fromfile(path)).eval(), build(standard_mask_rcnn)
    assert str(ours.rpn_head) == str(theirs.rpn_head)
    assert str(ours.roi_head) == str(theirs.roi_head)
    with torch.no_grad():
        maps = ours.extract_feat(torch.randn(1, 3, 128, 192))
    assert [tuple(m.shape[2:]) for m in maps] == [(128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]


def test_published_number_of_parameters():
    model = build(Config.fromfile(ROOT / 'configs/mask_rcnn_effvim_m4.py'))
    assert model.roi_head.mask_head.num_classes == 80
    assert sum(p.numel() for p in model.parameters()) == 39_323_701
    assert sum(p.numel() for p in model.neck.parameters()) == 3_748_416


def test_training_takes_real_masks_crowds_and_empty_images(trained_mask_rcnn, coco_root):
    content = json.loads((coco_root / 'annotations/instances_train2017.json').read_text())
    assert sum(a['iscrowd'] for a in content['annotations']) == 10  # run-length encoded
    folder, out = trained_mask_rcnn
    assert '126 training images' in out  # 2 have no annotation
    assert 'coco/bbox_mAP: ' in out and 'coco/segm_mAP: ' in out
    log = next(folder.glob('*/vis_data/scalars.json')).read_text()
    record = next(r for r in map(json.loads, log.splitlines()) if 'loss_mask' in r)
    assert 0 < record['loss_mask'] < 10


def test_masks_on_real_images_are_counted_as_pycocotools_does(
    trained_mask_rcnn, coco_root, tmp_path
):
    metrics, shown = tmp_path / 'metrics.json', tmp_path / 'shown'
    assert (
        run_command(
            'test',
            [
                MASK_RCNN,
                str(trained_mask_rcnn[0] / 'epoch_1.pth'),
                '--out',
                str(metrics),
                '--show-dir',
                str(shown),
                '--work-dir',
                str(tmp_path),
                '--cfg-options',
                f'+test_evaluator.outfile_prefix={tmp_path}/detections',
            ],
        )
        == 0
    )
    numbers = json.loads(metrics.read_text())
    assert len(numbers) == 24
    ground_truth = coco_root / 'annotations/instances_val2017.json'
    for kind in ('bbox', 'segm'):
        detections = tmp_path / f'detections.{kind}.json'
        if kind == 'segm':  # as COCO's masks are handed in; with a box, its area would count
            detections = without_boxes(detections)
        assert_equals_pycocotools(numbers, ground_truth, detections, kind)
    images = sorted(shown.glob('*.png'))
    assert len(images) == 36
    with Image.open(images[0]) as image:
        image.load()


def without_boxes(path):
    detections = json.loads(path.read_text())
    for detection in detections:
        detection.pop('bbox', None)
    path.write_text(json.dumps(detections))
    return path


@pytest.mark.parametrize(
    'segmentation, words',
    [
        ([[1, 1, 5, 5]], 'three points'),
        ([[1, 1, 5, 5, 9]], 'three points'),
        ([[1, 1, 5, 5, 1, 9], [3, 3]], 'three points'),
        ([[9000, 1, 9005, 5, 9001, 9]], 'outside'),
        ([[1, -9, 5, -5, 3, -2]], 'outside'),
        ([], 'missing'),
        (None, 'missing'),
        ({'size': [7, 7], 'counts': 'abc'}, 'size'),
        ({'size': [7, 7]}, 'counts'),
    ],
    ids=str,
)
def test_a_bad_mask_is_named(segmentation, words, coco_root, tmp_path, capsys):
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    for split in ('train2017', 'val2017'):
        os.symlink(coco_root / split, root / split)
        content = json.loads((coco_root / f'annotations/instances_{split}.json').read_text())
        if split == 'train2017':
            bad = content['annotations'][7]
            bad['segmentation'] = segmentation
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(content))
    status = run_command(
        'train',
        [
            MASK_RCNN,
            '--from-scratch',
            '--data-root',
            str(root),
            '--work-dir',
            str(tmp_path / 'run'),
        ],
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2 and len(lines) == 1
    for expected in ('error: ', 'instances_train2017.json', f'annotation {bad["id"]} ', words):
        assert expected in lines[0]
    # boxes alone do not need it
    retinanet = Config.fromfile(ROOT / 'configs/retinanet_effvim_m1.py')
    dataset = retinanet.train_dataloader.dataset
    dataset.data_root = str(root)
    assert len(coco.check(dataset)) == 80


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision_takes_features_from_where_the_boxes_are(dtype):
    """Against float32 maps of the same values; mmdet's own extractor is off in bfloat16."""
    from mmdet.registry import MODELS

    cfg = Config.fromfile(MASK_RCNN).model.roi_head.mask_roi_extractor
    maps = tuple(torch.randn(1, 256, 832 // s, 1344 // s).to(dtype) for s in (4, 8, 16, 32))
    rois = torch.tensor(
        [
            [0, 1027.3, 601.7, 1130.9, 740.1],
            [0, 3.3, 5.1, 40.9, 31.7],
            [0, 801.4, 300.6, 1290.2, 770.3],
        ]
    )
    expected = MODELS.build(cfg)(tuple(m.float() for m in maps), rois)
    extracted = MODELS.build({**cfg, 'type': 'EffViMSingleRoIExtractor'})(maps, rois)
    assert (extracted - expected).abs().max() <= 1e-5
    if dtype == torch.bfloat16:
        assert (MODELS.build(cfg)(maps, rois).float() - expected).abs().max() > 0.1
