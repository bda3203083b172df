"""Networks with decoding, and the selection in NumPy, compared with mmdet's and mmseg's results."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from effvim.checkpoints import exported
from effvim.config.run_spec import RunSpec
from effvim.datasets import synthetic
from effvim.export import fixed_size, parity
from effvim.export.decoded_graph import NearestByFactor
from effvim.export.metadata import metadata
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.selection import select
from tests.helpers.exports import config_of, example_script, model_of
from tests.helpers.narrow import RETINANET

HEADS = {  # and options that make them small
    'retinanet_effvim_m1': RETINANET,
    'rtmdet_effvim_m1': [],
    'gallery/atss_effvim_m1': RETINANET,
    'gallery/fcos_effvim_m1': [*RETINANET, 'model.bbox_head.stacked_convs=1'],
    'gallery/yolox_effvim_m1': [],
    'semfpn_effvim_m1': [],
}


def blob_image(height, width):
    """A smooth image, 3 H W."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(height))
    smooth = F.interpolate(coarse, (height, width), mode='bicubic')[0]
    return (255 * smooth).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('size', [(96, 128), (90, 131)], ids=str)
def test_results_are_those_of_pytorch(name, size):
    segmentor = name.startswith('semfpn')
    classes = synthetic.ADE_CLASSES if segmentor else synthetic.CLASSES
    _, cfg = config_of(name, classes, HEADS[name])
    model = model_of(cfg)
    kind, images = cfg.model.type, [blob_image(*size)]
    expected = parity.predict(model, images, kind)
    network, _ = fixed_size.build(copy.deepcopy(model), cfg, kind, size, False, 'ncnn')
    about = metadata(cfg, RunSpec(classes=list(classes)), kind, size, False, {})
    about |= {'input': 'rgb', 'selection': fixed_size.rules_of(network, cfg.model.test_cfg)}
    file = EffViMExportedModel.around(fixed_size.InPyTorch(network), about)
    predicted = parity.predict(file, images, kind)
    outcome = parity.compare(kind, expected, predicted, exported.settings(cfg), 0.1)
    assert not outcome.faults, outcome
    if not segmentor:
        counts = [len(sample.pred_instances) for sample in (*expected, *predicted)]
        assert counts[0] == counts[1] >= 5
        assert sum(about['selection']['priors']) == network(torch.zeros(1, 3, *size))[0].shape[1]


@pytest.mark.parametrize('length, wanted', [(3, 5), (3, 6), (5, 7), (4, 9)])
def test_nearest_neighbours_in_whole_factors(length, wanted):
    """Equal to PyTorch's, which no operator with another factor is needed for."""
    x = torch.randn(1, 2, length, length)
    with NearestByFactor():
        found = F.interpolate(x, (wanted, wanted), mode='nearest')
    assert found.equal(F.interpolate(x, (wanted, wanted), mode='nearest'))


@pytest.mark.parametrize('one_class', [False, True])
@pytest.mark.parametrize('nms_pre, max_per_img', [(None, None), (60, 20)])
def test_selection_of_the_examples_equals_that_of_the_package(one_class, nms_pre, max_per_img):
    rng = np.random.default_rng(0)
    corners = rng.random((200, 2), np.float32) * 60
    boxes = np.concatenate([corners, corners + rng.random((200, 2), np.float32) * 50], 1)
    scores, qualities = rng.random((200, 4), np.float32), rng.random((200, 1), np.float32)
    rules = dict(
        priors=[150, 50],
        nms_pre=nms_pre,
        score_thr=0.3,
        one_class=one_class,
        min_bbox_size=5,
        iou_threshold=0.5,
        max_per_img=max_per_img,
    )
    outputs = dict(boxes=boxes, scores=scores, qualities=qualities)
    ours = select(boxes, scores, qualities, rules)
    theirs = example_script('fixed_size').detections(outputs, rules)
    assert len(ours[0]) == max_per_img or len(ours[0]) > 20
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
