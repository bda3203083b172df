"""The graphs of all kinds of heads in PyTorch, compared with mmdet's and mmseg's own results.

tests/slow/test_every_config.py exports them.
"""

import copy

import onnxruntime
import pytest
import torch
from torch import nn

import mmdet_plugin  # noqa: F401  # first: replaces mmcv's compiled operators
from backbone.errors import UserError
from effvim.checkpoints import exported
from effvim.config.reading import load_config
from effvim.datasets import synthetic
from effvim.export import graph, openvino_file, parity, supported
from effvim.export.layers import DeformableConvolution
from effvim.export.operators import soften, translations
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.preprocessing import Prepare
from effvim.inference.runtimes import openvino_core
from tests.helpers.exports import config_of, listing, model_of, path_of
from tests.helpers.narrow import RETINANET

FULL_PRECISION = {'INFERENCE_PRECISION_HINT': 'f32'}  # of OpenVINO
NECK = ['model.neck.out_channels=64']
RPN = [*NECK, 'model.rpn_head.in_channels=64', 'model.rpn_head.feat_channels=64']
ROI = 'model.roi_head.bbox_roi_extractor.out_channels=64'
HEADS = {  # and options that make them small
    'gallery/atss_effvim_m1': RETINANET,
    'gallery/fcos_effvim_m1': [*RETINANET, 'model.bbox_head.stacked_convs=1'],
    'gallery/yolox_effvim_m1': [],
    'rtmdet_ins_effvim_m4': [*NECK, 'model.bbox_head.in_channels=64'],
    'gallery/faster_rcnn_effvim_m1': [
        *RPN,
        ROI,
        'model.roi_head.bbox_head.in_channels=64',
        'model.roi_head.bbox_head.fc_out_channels=128',
        'model.test_cfg.rcnn.max_per_img=60',
        'model.test_cfg.rcnn.score_thr=0.1',
    ],
    'gallery/cascade_rcnn_effvim_m1': [
        *RPN,
        ROI,
        *(
            f'model.roi_head.bbox_head.{i}.{name}'
            for i in range(3)
            for name in ('in_channels=64', 'fc_out_channels=128')
        ),
        'model.roi_head.bbox_head.0.reg_class_agnostic=False',  # both forms
    ],
    'gallery/deformable_detr_effvim_m1': [
        'model.num_queries=60',
        'model.encoder.num_layers=2',
        'model.decoder.num_layers=2',
        'model.with_box_refine=True',
    ],
    'semfpn_effvim_m1': [
        'model.test_cfg.mode=slide',
        '+model.test_cfg.crop_size=(64, 96)',
        '+model.test_cfg.stride=(48, 64)',
    ],
}


class InPyTorch(EffViMExportedModel):
    """A graph before it is exported, in place of the file."""

    def __init__(self, cfg, model):
        nn.Module.__init__(self)
        prepare = Prepare(**exported.preparation(cfg.model.data_preprocessor))
        self.network = graph.EXPORTABLE[cfg.model.type](copy.deepcopy(model), prepare).eval()
        self.about = {'settings': exported.settings(cfg)}

    def start(self, image):
        outputs = self.network(image[None])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(self.network.names, outputs, strict=True))

    def finish(self, job):
        return {name: value[0] for name, value in job.items()}


def blobs(height, width):
    """A smooth image, 0 to 255."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(height))
    smooth = nn.functional.interpolate(coarse, (height, width), mode='bicubic')[0]
    return (255 * smooth).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize('name', HEADS)
def test_results_are_those_of_pytorch(name):
    segmentor = name.startswith('semfpn')
    classes = synthetic.ADE_CLASSES if segmentor else synthetic.CLASSES
    _, cfg = config_of(name, classes, HEADS[name])
    supported.check(cfg.model, (96, 128) if segmentor else None)
    model = model_of(cfg)
    images = [blobs(96, 128), blobs(97, 131), blobs(64, 200)]
    expected = parity.predict(model, images, cfg.model.type)
    predicted = parity.predict(InPyTorch(cfg, model), images, cfg.model.type)
    outcome = parity.compare(cfg.model.type, expected, predicted, exported.settings(cfg), 0.1)
    assert not outcome.faults, outcome
    if segmentor:
        assert all(len(sample.pred_sem_seg.data.unique()) > 1 for sample in expected)
        return
    counts = [len(sample.pred_instances) for sample in expected]
    assert min(counts) >= 5 and counts == [len(sample.pred_instances) for sample in predicted]
    if name.startswith('rtmdet_ins'):
        masks = torch.cat([sample.pred_instances.masks.flatten() for sample in expected])
        assert 0.01 < masks.float().mean() < 0.99


def test_every_config_can_be_exported():
    for name in listing():
        supported.check(load_config(path_of(name)).model)


@pytest.mark.parametrize('method', ['linear', 'naive', 'gaussian'])
def test_soft_nms_of_a_file(method):
    """Equal to mmcv's; also of one box, and of images without boxes."""

    class Softened(nn.Module):
        def forward(self, boxes, scores):
            return soften(boxes, scores, method, 0.4, 0.5, 0.2, 30)

    corners = torch.rand(2, 90, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, 90, 2) * 50], -1)
    scores = torch.rand(2, 90)
    scores *= scores > 0.3
    scores[1, :7] = 0
    program = torch.onnx.export(
        Softened().eval(),
        (boxes, scores),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=({1: 'number'}, {1: 'number'}),
        custom_translation_table=translations(),
        verbose=False,
    )
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    names = [given.name for given in session.get_inputs()]
    compiled = openvino_file.read(content)
    compiled = openvino_core().compile_model(compiled, 'CPU', FULL_PRECISION)
    for number in (90, 7, 1):
        given = boxes[:, :number], scores[:, :number]
        expected = Softened()(*given)
        values = {name: value.numpy() for name, value in zip(names, given)}
        (result,) = session.run(None, values)
        torch.testing.assert_close(torch.from_numpy(result), expected)
        (result,) = compiled(values).values()
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-5)
    assert (Softened()(boxes, scores) > 0).sum() > 20


@pytest.mark.parametrize('deform_groups, groups, stride', [(1, 1, 1), (2, 1, 2), (2, 4, 1)])
def test_deformable_convolution_equals_mmcvs(deform_groups, groups, stride):
    from mmcv.ops import ModulatedDeformConv2dPack

    layer = ModulatedDeformConv2dPack(
        8, 12, (3, 1), stride, padding=2, dilation=2, groups=groups, deform_groups=deform_groups
    )
    nn.init.normal_(layer.conv_offset.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 8, 9, 13)
    expected = layer(x)
    torch.testing.assert_close(DeformableConvolution(layer)(x), expected, atol=1e-4, rtol=1e-4)


def soft(**changes):
    return dict(nms=dict(type='soft_nms', iou_threshold=0.5, **changes))


@pytest.mark.parametrize(
    'name, changes, key',
    [
        ('semfpn_effvim_m1', dict(test_cfg=dict(mode='slide')), 'model.test_cfg.mode'),
        ('retinanet_effvim_m1', dict(type='GFL'), 'model.type'),
        ('retinanet_effvim_m1', dict(test_cfg=dict(nms_pre=-1)), 'model.test_cfg.nms_pre'),
        ('retinanet_effvim_m1', dict(test_cfg=soft(offset=1)), 'model.test_cfg.nms'),
        (
            'retinanet_effvim_m1',
            dict(bbox_head=dict(loss_cls=dict(use_sigmoid=False))),
            'model.bbox_head.loss_cls.use_sigmoid',
        ),
        (
            'mask_rcnn_effvim_m1',
            dict(test_cfg=dict(rcnn=dict(nms=dict(class_agnostic=True)))),
            'model.test_cfg.rcnn.nms',
        ),
        (
            'semfpn_effvim_m1',
            dict(decode_head=dict(out_channels=1, threshold=0.3)),
            'model.decode_head.out_channels=1',
        ),
        ('gallery/deformable_detr_effvim_m1', dict(as_two_stage=True), 'model.as_two_stage'),
        (
            'gallery/deformable_detr_effvim_m1',
            dict(data_preprocessor=dict(pad_size_divisor=32)),
            'model.data_preprocessor.pad_size_divisor',
        ),
    ],
)
def test_what_cannot_be_exported(name, changes, key):
    cfg = load_config(path_of(name))
    cfg.merge_from_dict({'model': changes})
    with pytest.raises(UserError) as error:
        supported.check(cfg.model)
    assert key in str(error.value) and '\n' not in str(error.value)
