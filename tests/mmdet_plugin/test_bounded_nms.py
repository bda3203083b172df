"""Non-maximum suppression that stops early, against torchvision's over all candidates."""

import numpy as np
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import DefaultScope

from backbone.openmmlab import suppression
from effvim.config.editing import set_classes
from tests.helpers.paths import ROOT


def suppresses(path):
    return Config.fromfile(path).model.type not in ('EncoderDecoder', 'DeformableDETR')


CONFIGS = [
    path
    for path in sorted(ROOT.glob('configs/**/*.py'))
    if path.stem.endswith(('_m1', 'ins_effvim_m4')) and suppresses(path)
]


@pytest.mark.parametrize('distinct', [True, False])
@pytest.mark.parametrize('limit', [1, 50, 300, 10_000])
def test_returns_the_first_boxes_of_the_full_suppression(limit, distinct):
    random = np.random.default_rng(limit)
    corners = torch.tensor(random.uniform(0, 300, (9000, 2)))
    boxes = torch.cat([corners, corners + torch.tensor(random.uniform(1, 90, (9000, 2)))], 1)
    scores = torch.tensor(random.random(9000))
    if not distinct:
        scores = scores.mul(40).round()
    full = torchvision.ops.nms(boxes, scores, 0.6)
    with suppression.limited_to(limit):
        kept = suppression.greedy_nms(boxes, scores, 0.6)
    assert kept.tolist() == full[:limit].tolist()
    assert suppression.greedy_nms(boxes, scores, 0.6).tolist() == full.tolist()


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_detectors_predict_the_same_with_fewer_boxes(path, monkeypatch):
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample

    import mmdet_plugin  # noqa: F401 - before anything of mmdet's models

    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    set_classes(cfg, ['disc', 'cross'])
    for settings in (cfg.model.test_cfg, *cfg.model.test_cfg.values()):
        if (
            isinstance(settings, dict) and 'score_thr' in settings
        ):  # random weights score low everywhere
            settings.score_thr = 0.0
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
        model.init_weights()
    suppressed = []

    def counting(boxes, scores, iou_threshold):
        suppressed.append(len(boxes))
        return torchvision_nms(boxes, scores, iou_threshold)

    torchvision_nms = torchvision.ops.nms
    monkeypatch.setattr(torchvision.ops, 'nms', counting)
    size = (640, 640)
    sample = DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
    )
    image = torch.rand(1, 3, *size) * 4 - 2
    with torch.inference_mode():
        (bounded,) = [s.pred_instances for s in model.predict(image, [sample.clone()])]
        fewer = sum(suppressed)
        suppressed.clear()
        monkeypatch.setattr(suppression, 'greedy_nms', counting)
        (full,) = [s.pred_instances for s in model.predict(image, [sample.clone()])]
    assert len(full) and sorted(bounded.keys()) == sorted(full.keys())
    for key, value in full.items():
        assert torch.equal(bounded[key], value), key
    if path.stem.startswith(('retinanet', 'rtmdet', 'atss', 'fcos')):
        assert fewer < sum(suppressed)
