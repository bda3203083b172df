"""Exported files compared with mmdet's and mmseg's own results, by image and by the metrics."""

import json
import sys

import mmcv
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from backbone.errors import UserError
from effvim.checkpoints import checkpoint, exported
from effvim.config.reading import import_plugins, load_config
from effvim.config.run_spec import RunSpec
from effvim.datasets import synthetic
from effvim.export import onnx_file, parity, quantization
from effvim.export.graph import above, apply_nms
from effvim.export.layers import AdaptivePool
from effvim.export.metadata import metadata
from effvim.inference.exported_model import EffViMExportedModel
from effvim.inference.object_masks import paste
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.exports import (
    KINDS,
    SCALE,
    config_of,
    model_of,
    options_of,
    predicting_layers,
)
from tests.helpers.paths import ROOT

SIZES = [(96, 128), (97, 131), (160, 64), (129, 77), (200, 200)]


def random_images(height, width, number=2):
    """Images of smooth blobs and noise, 0 to 255."""
    coarse = torch.rand(number, 3, 5, 5)
    smooth = nn.functional.interpolate(coarse, (height, width), mode='bicubic')
    return (255 * smooth + 20 * torch.randn(smooth.shape)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_results_are_those_of_pytorch(made, height, width):
    images = random_images(height, width)
    session = onnxruntime.InferenceSession(str(made.file))
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {'images': images.numpy()})))
    expected = parity.predict(made.model, list(images), made.kind)
    if made.kind == 'EncoderDecoder':
        labels = torch.cat([sample.pred_sem_seg.data for sample in expected]).numpy()
        assert outputs['label_map'].shape == labels.shape
        assert (outputs['label_map'] == labels).mean() > 0.9995 and len(np.unique(labels)) > 1
        return
    assert names[:4] == ['boxes', 'scores', 'labels', 'count']
    limit = made.model.test_cfg.get('rcnn', made.model.test_cfg).max_per_img
    assert outputs['boxes'].shape == (2, limit, 4) and outputs['scores'].shape == (2, limit)
    for i, sample in enumerate(expected):
        instances, count = sample.pred_instances, outputs['count'][i]
        assert len(instances) == count >= 5
        assert (np.diff(outputs['scores'][i, :count]) <= 0).all()
        # in PyTorch's order, except for nearly equal scores
        away = np.abs(outputs['boxes'][i, :count, None] - instances.bboxes.numpy()).max(-1)
        away += 1e3 * np.abs(outputs['scores'][i, :count, None] - instances.scores.numpy())
        away[outputs['labels'][i, :count, None] != instances.labels.numpy()] = np.inf
        order = away.argmin(1)
        assert sorted(order) == list(range(count)) and away.min(1).max() < 0.5
        assert (outputs['scores'][i, count:] == 0).all() and (
            outputs['boxes'][i, count:] == 0
        ).all()
        assert (outputs['labels'][i, count:] == -1).all()
        if made.kind == 'MaskRCNN':
            assert outputs['masks'].shape == (2, limit, 28, 28)
            masks = paste(
                torch.from_numpy(outputs['masks'][i, :count]),
                instances.bboxes[order],
                (height, width),
                0.5,
            )
            both, either = (
                (masks & instances.masks[order]).sum(),
                (masks | instances.masks[order]).sum(),
            )
            assert both / either > 0.999 and 0 < either < masks.numel()


def test_metadata_of_a_file(made):
    content = made.file.read_bytes()
    assert str(ROOT).encode() not in content and b'site-packages' not in content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    metadata = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert metadata['classes'] == list(made.classes) and metadata['kind'] == made.kind
    assert metadata['size'] is None and metadata['input'] == 'raw'
    assert metadata['segments'] == (made.kind == 'EncoderDecoder')
    assert metadata['versions']['torch'] == f'torch {torch.__version__.split("+")[0]}'
    assert metadata['settings']['model.data_preprocessor']['mean'] == [123.675, 116.28, 103.53]
    if made.kind != 'EncoderDecoder':
        score = (
            'model.test_cfg.rcnn.score_thr'
            if made.kind == 'MaskRCNN'
            else ('model.test_cfg.score_thr')
        )
        assert metadata['settings'][score] == 0.3
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}


def test_metadata_of_other_tools(made, tmp_path):
    """E.g. of onnxruntime's quantisation, which are not JSON."""
    model = onnx.load(made.file)
    model.metadata_props.add(key='onnx.infer', value='onnxruntime.quant')
    onnx.save(model, tmp_path / 'm.onnx')
    about = exported.description(str(tmp_path / 'm.onnx'))
    assert about == exported.description(str(made.file))


def test_evaluation_equals_that_of_the_checkpoint(made, tmp_path):
    numbers, detections = [], []
    for name, argv in (
        ('plain', made.argv),
        (
            'file',
            [
                made.config,
                str(made.file),
                '--work-dir',
                str(tmp_path),
                '--data-root',
                str(made.root),
            ],
        ),
    ):
        argv = [*argv[:2], '--out', str(tmp_path / 'm.json'), *argv[2:]]
        if made.kind != 'EncoderDecoder':
            argv += ['--cfg-options'] * ('--cfg-options' not in argv)
            argv += [f'+test_evaluator.outfile_prefix={tmp_path / name}']
        assert run_command('test', argv) == 0
        numbers.append(json.loads((tmp_path / 'm.json').read_text()))
        if made.kind != 'EncoderDecoder':
            detections.append(json.loads((tmp_path / f'{name}.bbox.json').read_text()))
    plain, file = numbers
    assert plain.keys() == file.keys() and max(plain.values()) > 0
    if made.kind == 'EncoderDecoder':
        assert file['mIoU'] > 1
        for name in ('mIoU', 'mAcc', 'aAcc'):
            assert file[name] == pytest.approx(plain[name], abs=0.2), name  # percent
        return
    kinds = ['bbox', 'segm'] if made.kind == 'MaskRCNN' else ['bbox']
    for name in (f'coco/{kind}_mAP' for kind in kinds):
        assert plain[name] > 0.1
        assert file[name] == pytest.approx(plain[name], abs=2e-3), name
    # and every detection
    for image in {item['image_id'] for item in detections[0]}:
        ours, theirs = (
            [item for item in items if item['image_id'] == image] for items in detections
        )
        assert len(ours) == len(theirs) >= 5
        scores, boxes, labels = (
            [np.array([item[key] for item in items]) for items in (ours, theirs)]
            for key in ('score', 'bbox', 'category_id')
        )
        away = np.abs(boxes[0][:, None] - boxes[1]).max(-1)
        away += 1e3 * np.abs(scores[0][:, None] - scores[1])
        away[labels[0][:, None] != labels[1]] = np.inf
        assert sorted(away.argmin(1)) == list(range(len(ours))) and away.min(1).max() < 0.5


def test_a_benchmark_of_a_file(made, tmp_path, capsys):
    argv = [
        'model',
        made.config,
        str(made.weights),
        '--cases',
        'own:fused',
        str(made.file),
        '--sizes',
        '96',
        '--rounds',
        '1',
        '--json',
        str(tmp_path / 'b.json'),
        '--cfg-options',
        *options_of(KINDS[made.kind]),
    ]
    assert run_command('benchmark', argv) == 0, capsys.readouterr().err
    own, file = json.loads((tmp_path / 'b.json').read_text())['cases']
    times = {stage: value['median'] for stage, value in file['latency_s'].items()}
    assert file['network'] == str(made.file) and set(times) == {
        'loading',
        'pre-processing',
        'exported file',
        'post-processing',
        'total',
    }
    assert min(times.values()) > 0 and 'network' in own['latency_s']
    assert run_command('benchmark', ['model', made.config, '--cases', str(made.file)]) == 2
    assert 'checkpoint' in capsys.readouterr().err


def test_report_of_a_file(made, tmp_path, capsys):
    """The report of a checkpoint, without what a file does not hold."""
    argv = [made.config, str(made.file), '--data-root', str(made.root)]
    argv += ['--work-dir', str(tmp_path), '--report', str(tmp_path)]
    status = run_command('test', argv)
    if made.kind == 'EncoderDecoder':
        assert status == 2 and 'only labels' in capsys.readouterr().err
        return
    page = (tmp_path / 'report.html').read_text()
    assert status == 0 and 'id="attention"' not in page
    kinds = ['bbox', 'segm'] if made.kind == 'MaskRCNN' else ['bbox']
    assert all(
        f'id="{name}"' in page
        for name in ('sample-0', 'confusion', 'mistakes', *(f'pr-{kind}' for kind in kinds))
    )


def test_inference_equals_that_of_the_checkpoint(made):
    image = random_images(90, 116, 1)[0].permute(1, 2, 0).numpy()
    predicted = Predictor(made.config, made.file)(image)
    expected = Predictor(made.config, made.weights, options=options_of(KINDS[made.kind]))(image)
    assert predicted.classes == expected.classes == tuple(made.classes)
    if made.kind == 'EncoderDecoder':
        # resized as labels, not as logits
        assert (predicted.label_map == expected.label_map).mean() > 0.99
        return
    assert len(predicted.boxes) == len(expected.boxes) >= 5
    np.testing.assert_allclose(predicted.scores, expected.scores, atol=1e-3)
    away = np.abs(predicted.boxes[:, None] - expected.boxes).max(-1)
    away[predicted.labels[:, None] != expected.labels] = np.inf
    assert away.min(1).max() < 0.5
    assert (predicted.masks is None) == (made.kind != 'MaskRCNN')


@pytest.mark.parametrize(
    'change, word',
    [
        (['--cfg-options', 'model.data_preprocessor.bgr_to_rgb=False'], 'data_preprocessor'),
        (['--fuse'], '--fuse'),
        (['--amp'], '--amp'),
        (['--raw'], '--raw'),
        (['--tta'], '--tta'),
        (['--launcher', 'pytorch'], '--launcher'),
        (['--mini'], '--mini'),
    ],
    ids=str,
)
def test_flags_that_contradict_a_file(made, change, word, capsys):
    assert run_command('test', [made.config, str(made.file), *change]) == 2
    assert word in capsys.readouterr().err


def test_a_config_of_another_variant(made, capsys):
    other = made.config.replace('_m1', '_m2')
    assert run_command('test', [other, str(made.file)]) == 2
    err = capsys.readouterr().err
    assert 'arch' in err and 'm1' in err and 'm2' in err


def test_data_of_other_classes(made, tmp_path, capsys):
    other = synthetic.draw_coco(tmp_path / 'coco', num_train=1, num_val=2, size=64)
    if made.kind == 'EncoderDecoder':
        change = ['--data-root', str(made.root)]
        change += ['--cfg-options', 'test_dataloader.dataset.metainfo.classes=[a,b,c,d]']
    else:
        path = other / 'annotations/instances_val2017.json'
        path.write_text(path.read_text().replace('"disc"', '"cat"'))
        change = ['--data-root', str(other)]
    assert run_command('test', [made.config, str(made.file), *change]) == 2
    assert 'classes' in capsys.readouterr().err


def test_a_file_that_differs_is_not_written(made, monkeypatch, capsys):
    """The exporter is handed a file whose last layer is another; what was there before stays."""

    model = onnx.load(made.file)
    last = predicting_layers(made.model)[0][0]
    (weight,) = [w for w in model.graph.initializer if w.name.endswith(f'{last}.bias')]
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy() + 1, weight.name))
    wrong = model.SerializeToString()
    monkeypatch.setattr(onnx_file, 'write', lambda *_: wrong)
    out = made.folder / 'here/wrong.onnx'
    out.parent.mkdir()
    out.write_bytes(b'mine')
    assert run_command('export', [*made.argv, '--out', str(out)]) == 1
    assert out.read_bytes() == b'mine' and list(out.parent.iterdir()) == [out]
    assert 'wrong.onnx is not written' in capsys.readouterr().err


@pytest.mark.parametrize('score_threshold', [0.0, 0.05, 0.5])
def test_nms_equals_mmdets(score_threshold):
    import mmdet_plugin  # noqa: F401, I001  # first: replaces mmcv's compiled operators
    from mmdet.models.layers import multiclass_nms
    from mmengine.config import ConfigDict

    settings = ConfigDict(
        score_thr=score_threshold, max_per_img=30, nms=dict(type='nms', iou_threshold=0.5)
    )
    corners = torch.rand(2, 150, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, 150, 2) * 50], -1)
    scores = torch.rand(2, 150, 4) ** 3
    groups = torch.arange(4).expand_as(scores)
    boxes_kept, scores_kept, labels_kept, _ = apply_nms(
        boxes[:, :, None].expand(-1, -1, 4, -1).flatten(1, 2),
        above(scores.flatten(1), score_threshold),
        groups.flatten(1),
        settings,
    )
    for i in range(2):
        padded = torch.cat([scores[i], torch.zeros(150, 1)], 1)  # the last is background
        dets, labels = multiclass_nms(boxes[i], padded, score_threshold, settings.nms, 30)
        count = len(dets)
        assert torch.equal(boxes_kept[i, :count], dets[:, :4])
        assert torch.equal(scores_kept[i, :count], dets[:, 4])
        assert not scores_kept[i, count:].any()
        assert torch.equal(labels_kept[i, :count], labels)


@pytest.mark.parametrize('score_threshold', [0.0, 1.0])
def test_masks_of_many_boxes_and_of_none(score_threshold, tmp_path):
    """With group norm in the mask head, as with --from-scratch."""
    from mmengine.registry import MODELS, init_default_scope

    from effvim.config import presets

    _, cfg = config_of(
        KINDS['MaskRCNN'], synthetic.CLASSES, [f'model.test_cfg.rcnn.score_thr={score_threshold}']
    )
    presets.use_from_scratch(cfg)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval()
    image = random_images(96, 128, 1)
    (expected,) = parity.predict(model, list(image), 'MaskRCNN')
    spec = RunSpec(classes=list(synthetic.CLASSES))
    content = onnx_file.write(model, cfg, spec, 'MaskRCNN', (96, 128), False, {})
    (tmp_path / 'model.onnx').write_bytes(content)
    file = EffViMExportedModel(str(tmp_path / 'model.onnx'))
    (predicted,) = parity.predict(file, list(image), 'MaskRCNN')
    assert len(predicted.pred_instances) == len(expected.pred_instances)
    assert len(expected.pred_instances) == 20 * (score_threshold == 0)
    assert predicted.pred_instances.masks.shape == expected.pred_instances.masks.shape


def test_fixed_size_and_normalised(semfpn, tmp_path):
    model, argv = semfpn
    assert run_command('export', [*argv, '--size', '96', '160', '--normalised']) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'))
    (given,) = session.get_inputs()
    assert given.shape == [1, 3, 96, 160] and given.type == 'tensor(float)'
    image = random_images(96, 160, 1)
    rgb = image.flip(1).numpy().astype(np.float32)
    mean, std = np.float32([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[..., None, None]
    (labels,) = session.run(None, {given.name: (rgb - mean) / std})
    (expected,) = parity.predict(model, list(image), 'EncoderDecoder')
    assert (labels == expected.pred_sem_seg.data.numpy()).mean() > 0.9995
    # a smaller image is padded, a larger one does not fit
    runner = EffViMExportedModel(str(tmp_path / 'model.onnx'))
    small = parity.predict(runner, list(random_images(80, 100, 1)), 'EncoderDecoder')
    assert small[0].pred_sem_seg.data.shape == (1, 80, 100)
    with pytest.raises(UserError, match='97 × 160'):
        parity.predict(runner, list(random_images(97, 160, 1)), 'EncoderDecoder')


def test_normalised_images_of_any_size(made, tmp_path):
    """As the file that normalises them itself; both pad to what the network takes."""
    path = tmp_path / 'model.onnx'
    assert run_command('export', [*made.argv, '--normalised', '--out', str(path)]) == 0
    image = random_images(97, 131)
    mean, std = np.float32([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[..., None, None]
    rgb = (image.flip(1).numpy().astype(np.float32) - mean) / std
    one, other = (
        dict(zip([o.name for o in session.get_outputs()], session.run(None, {name: given})))
        for session, name, given in (
            (onnxruntime.InferenceSession(str(made.file)), 'images', image.numpy()),
            (onnxruntime.InferenceSession(str(path)), 'images', rgb),
        )
    )
    assert one.keys() == other.keys()
    if made.kind == 'EncoderDecoder':
        assert (one['label_map'] == other['label_map']).mean() > 0.9995
        return
    assert (one['count'] == other['count']).all() and one['count'].min() >= 5
    assert np.abs(one['scores'] - other['scores']).max() <= 1e-4


def test_a_backbone_alone(semfpn, tmp_path, capsys):
    model, argv = semfpn
    assert run_command('export', [*argv, '--backbone-only']) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'))
    assert [o.name for o in session.get_outputs()] == ['stride_16', 'stride_32', 'stride_64']
    image = random_images(97, 131)
    outputs = session.run(None, {'images': image.numpy()})
    with torch.no_grad():
        prepared = model.data_preprocessor({'inputs': list(image), 'data_samples': None})
        expected = model.backbone(prepared['inputs'])
    for a, b in zip(outputs, expected, strict=True):
        assert np.abs(a - b.numpy()).max() <= 1e-4 * b.abs().max()
    assert run_command('test', [argv[0], str(tmp_path / 'model.onnx')]) == 2
    assert 'only a backbone' in capsys.readouterr().err


def test_integers_of_8_bits(semfpn, roots, tmp_path, monkeypatch, capsys):
    made = {}

    def once(module, name):
        """Let `module.name` return its first result from then on."""
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *given: (
                made.setdefault(name, None) or made.update({name: original(*given)}) or made[name]
            ),
        )

    once(onnx_file, 'write')
    once(quantization, 'quantise')
    argv = [*semfpn[1], '--int8', str(roots[True] / 'images/validation')]
    assert run_command('export', argv) == 0
    out, content = capsys.readouterr().out, (tmp_path / 'model.onnx').read_bytes()
    model = onnx.load_from_string(content)
    in_float = json.loads(next(i.value for i in model.metadata_props if i.key == 'float32'))
    assert any('conv_seg' in name for name in in_float)
    assert all(name.split('/')[0] in out for name in in_float)
    integers = {w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.INT8}
    weights = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == 'DequantizeLinear' and node.input[0] in integers
    }
    products = [n for n in model.graph.node if n.op_type in ('Conv', 'Gemm', 'MatMul')]
    assert all((n.input[1] in weights) == (n.name not in in_float) for n in products)
    assert len(in_float) < len(products) / 4
    # not written if it loses too much
    numbers = iter([{'mIoU': 50}, {'mIoU': 47.9}])
    monkeypatch.setattr(quantization, 'measured', lambda *_: next(numbers))
    assert run_command('export', argv) == 1
    assert 'loses 0.0210' in capsys.readouterr().err
    assert (tmp_path / 'model.onnx').read_bytes() == content


@pytest.mark.parametrize(
    'change, word',
    [
        (['--int8', '.', '--backbone-only'], '--backbone-only'),
        (['--out', 'model.bin'], '*.onnx'),
        (['--size', '96'], '--help'),
        (['--size', '16', '96'], '64 pixels'),
        (['--launcher', 'pytorch'], '--launcher'),
        (['--images', 'nowhere'], '--images nowhere'),
        (
            [
                '--size',
                '96',
                '100',
                '--normalised',
                '--cfg-options',
                '+model.data_preprocessor.pad_size_divisor=32',
            ],
            'multiples of 32',
        ),
        (['--cfg-options', 'model.test_cfg.mode=slide'], '--size'),
        (['--cfg-options', 'model.type=CascadeEncoderDecoder'], '--backbone-only'),
    ],
    ids=str,
)
def test_mistakes(semfpn, change, word, capsys):
    assert run_command('export', [*semfpn[1], *change]) == 2
    err = capsys.readouterr().err
    assert word in err and err.count('\n') == 1


def export_of(path, model, classes, folder, *more):
    """Export a model, compared on one image; returns the exit status and the file."""
    mmcv.imwrite(
        random_images(128, 96, 1)[0].permute(1, 2, 0).numpy(), str(folder / 'images/a.png')
    )
    torch.save(
        {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}},
        folder / 'weights.pth',
    )
    status = run_command(
        'export',
        [
            path,
            str(folder / 'weights.pth'),
            '--images',
            str(folder / 'images'),
            '--work-dir',
            str(folder),
            '--out',
            str(folder / 'model.onnx'),
            *more,
            '--cfg-options',
            f'test_dataloader.dataset.pipeline.1.scale={SCALE}',
        ],
    )
    return status, folder / 'model.onnx'


@pytest.mark.parametrize(
    'name',
    [
        path.stem
        for path in sorted((ROOT / 'configs/gallery').glob('*.py'))
        if load_config(str(path)).default_scope == 'mmseg'
    ],
)
def test_segmentors_of_the_gallery(name, tmp_path, capsys):
    """Their files give PyTorch's labels at any size."""
    path, cfg = config_of(f'gallery/{name}', synthetic.ADE_CLASSES)
    model = model_of(cfg)
    status, file = export_of(path, model, synthetic.ADE_CLASSES, tmp_path)
    assert status == 0, capsys.readouterr().err
    session = onnxruntime.InferenceSession(str(file))
    for height, width in SIZES:
        images = random_images(height, width)
        (label_maps,) = session.run(None, {'images': images.numpy()})
        expected = torch.cat(
            [
                sample.pred_sem_seg.data
                for sample in parity.predict(model, list(images), 'EncoderDecoder')
            ]
        ).numpy()
        assert (label_maps == expected).mean() > 0.9995 and len(np.unique(expected)) > 1


@pytest.mark.parametrize('out', [1, 3, 6])
def test_adaptive_pooling_equals_pytorchs(out):
    for size in ((1, 1), (4, 7), (6, 13), (40, 5)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(AdaptivePool(out)(x), nn.AdaptiveAvgPool2d(out)(x))


@pytest.mark.parametrize('step', ['exporting', 'running'])
def test_a_head_that_cannot_be_exported(step, tmp_path, capsys, monkeypatch):
    """The head returns three maps instead of one, or onnxruntime cannot run its file."""
    path = tmp_path / 'own.py'
    path.write_text(f"""
_base_ = {str(ROOT / 'configs/gallery/fcn_effvim_m1.py')!r}
model = dict(backbone=dict(init_cfg=None), decode_head=dict(
    _delete_=True, type='DAHead', in_channels=320, in_index=2, channels=32, pam_channels=8,
    num_classes=2, norm_cfg=dict(type='BN')))
""")
    cfg = load_config(str(path))
    import_plugins(cfg)
    from mmseg.registry import MODELS

    if step == 'running':

        def fail(*_):
            raise ValueError('of onnxruntime\nand more')

        monkeypatch.setattr(onnx_file, 'write', lambda *_: b'')
        monkeypatch.setattr(EffViMExportedModel, '__init__', fail)
    status, file = export_of(
        str(path), MODELS.build(cfg.model), ['a', 'b'], tmp_path, '--size', '96', '96'
    )
    err = capsys.readouterr().err
    *notes, error = err.splitlines()  # one of the size
    assert status == 2 and not file.exists()
    assert len(notes) <= 1
    assert error.startswith('error: EncoderDecoder with DAHead cannot be exported ('), err
    assert ('of onnxruntime' in err) == (step == 'running') and '--backbone-only' in err


@pytest.mark.parametrize('content', [b'', b'rubbish', None], ids=['empty', 'rubbish', 'foreign'])
def test_files_of_other_programs(content, tmp_path, capsys):
    path = tmp_path / 'm.onnx'
    if content is None:
        write_onnx(path)
    else:
        path.write_bytes(content)
    config_file = str(ROOT / 'configs/retinanet_effvim_m1.py')
    for given in (path, tmp_path / 'absent.onnx'):
        assert run_command('test', [config_file, str(given)]) == 2
        err = capsys.readouterr().err
        assert given.name in err and err.count('\n') == 1


def write_onnx(path, **metadata):
    """Write a graph that copies its input, with the given metadata."""
    value = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node('Identity', ['x'], ['y'])
    out = onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'g', [value], [out]),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid('', 18)],
    )
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    path.write_bytes(model.SerializeToString())


def test_metadata_of_version_0_1_and_of_today(tmp_path):
    """Both give the run back, tuples included."""
    old = {
        'config': 'retinanet_effvim_m1.py',
        'overlays': ['from_scratch', 'mini'],
        'options': {'a.scale': '(128, 96)'},
        'fitted': {},
    }
    new = RunSpec(
        'retinanet_effvim_m1.py',
        ['from_scratch', 'mini'],
        options={'a.scale': (128, 96)},
        classes=['disc', 'cat'],
    )
    _, cfg = config_of(KINDS['RetinaNet'], ['disc', 'cat'])
    today = metadata(cfg, new, 'RetinaNet', (96, 128), True, new.options)
    assert today['size'] == [96, 128] and today['input'] == 'normalised'
    since = ('segments', 'resize')
    before = {key: value for key, value in today.items() if key not in since}
    for name, about in (('old', {**before, 'effvim': old}), ('new', today)):
        path = tmp_path / f'{name}.onnx'
        write_onnx(path, **{**about, 'classes': ['disc', 'cat']})
        content = exported.content(str(path))
        spec = RunSpec.from_dict(checkpoint.describe(content))
        assert (spec.config, spec.presets) == (new.config, new.presets)
        assert spec.options == new.options
        assert checkpoint.classes_of(content) == ('disc', 'cat') == tuple(spec.classes)


def test_without_onnx(semfpn, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    assert run_command('export', semfpn[1]) == 2
    assert 'pip install ".[export]"' in capsys.readouterr().err
