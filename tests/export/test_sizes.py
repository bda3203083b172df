"""Files that take images of one size: what is resized to fit into them, and how."""

import json

import numpy as np
import pytest
from mmengine.config import ConfigDict
from PIL import Image

from backbone.errors import UserError
from effvim.export.sizes import fitting_options, size_of
from effvim.inference.exported_network import resized_size
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.exports import KINDS, SCALE, options_of


def test_the_size_of_the_config():
    """Height and width of Pad's width and height; one number is both sides."""
    pad = [dict(type='Resize', scale=(960, 544)), dict(type='Pad', size=(960, 544))]
    assert size_of(pad, 'm.tflite') == (544, 960)
    assert size_of([dict(type='Resize', scale=640, keep_ratio=True)], 'm.tflite') == (640, 640)
    with pytest.raises(UserError, match='--size 640 640'):
        size_of([dict(type='Resize', scale=(1333, 800))], 'm.tflite')


LOAD = dict(type='LoadImageFromFile')
COCO = dict(type='Resize', scale=(1333, 800), keep_ratio=True)


@pytest.mark.parametrize(
    ('pipeline', 'size', 'changes'),
    [
        ([LOAD, COCO], (640, 640), {'1.scale': (640, 640)}),
        ([LOAD, COCO], (800, 1344), {}),
        ([LOAD, COCO], (1344, 800), {}),
        ([LOAD, COCO], (480, 640), {'1.scale': (640, 480)}),
        ([LOAD, COCO], (1000, 1000), {'1.scale': (1000, 800)}),
        ([LOAD, dict(type='mmdet.Resize', scale=320, keep_ratio=True)], (640, 640), {}),
        ([LOAD, dict(type='Resize', scale=(640, 480))], (320, 960), {'1.scale': (640, 320)}),
        (
            [
                dict(type='Resize', scale=(640, 640), keep_ratio=True),
                dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))),
            ],
            (320, 512),
            {'0.scale': (512, 320), '1.size': (512, 320)},
        ),
        (
            [
                dict(type='Resize', scale=(2048, 512), keep_ratio=True),
                dict(type='ResizeToMultiple', size_divisor=32),
            ],
            (500, 700),
            {'0.scale': (672, 480)},
        ),
    ],
)
def test_pipelines_are_changed_where_images_would_not_fit(pipeline, size, changes):
    assert fitting_options([ConfigDict(step) for step in pipeline], size) == changes


@pytest.mark.parametrize('multiple', [None, 32])
def test_every_image_fits_into_a_file(multiple):
    """And keeps its ratio of sides; what would fit anyway is resized as ever."""
    rules = dict(scale=[640, 480], keep_ratio=True, multiple=multiple, pad=None)
    rng = np.random.default_rng(0)
    for width, height in rng.integers(40, 2000, (200, 2)).tolist():
        size = resized_size(width, height, rules, [480, 640])
        assert size[0] <= 640 and size[1] <= 480
        assert (
            size[0] in (1, 640) or size[1] in (1, 480) or size == resized_size(width, height, rules)
        )
        assert abs(size[0] / width - size[1] / height) <= 1 / min(width, height)
        if width >= height:  # as without the file's size
            assert size == resized_size(width, height, rules)


@pytest.mark.parametrize('trained', ['RTMDet', 'EncoderDecoder'], indirect=True)
def test_a_file_of_a_smaller_size_than_the_config(trained, tmp_path, capsys):
    """It predicts what the network predicts on images of that size, and is measured so."""
    segmentor = trained.kind == 'EncoderDecoder'
    file = tmp_path / 'model.onnx'
    assert run_command('export', [*trained.argv, '--out', str(file), '--size', '96', '96']) == 0
    notes = capsys.readouterr().err.splitlines()
    assert all('--size 96 96: ' in note and '=(96,96)' in note for note in notes)
    assert len(notes) == (1 if segmentor else 2)  # of Resize, and of Pad

    own = options_of(KINDS[trained.kind])
    smaller = [option.replace(SCALE, '(96,96)') for option in own]
    in_pytorch = Predictor(trained.config, trained.weights, options=smaller)
    folder = 'images/validation' if segmentor else 'val2017'
    # a segmentor notices the padding, which RTMDet has in either
    for size in [(200, 200)] if segmentor else [(300, 200), (200, 300)]:
        with Image.open(min((trained.root / folder).iterdir())) as image:
            photo = np.asarray(image.convert('RGB').resize(size))
        expected, predicted = in_pytorch(photo), Predictor(file)(photo)
        if segmentor:
            # PyTorch enlarges logits, the file's caller labels: their borders differ
            assert (predicted.label_map == expected.label_map).mean() > 0.98
        else:
            assert len(predicted.boxes) == len(expected.boxes) >= 5
            np.testing.assert_allclose(predicted.boxes, expected.boxes, atol=0.1)

    metrics = []
    in_pytorch_argv = [*trained.argv[: -len(own)], *smaller]
    of_file = [trained.config, str(file), '--data-root', str(trained.root)]
    for argv in (in_pytorch_argv, [*of_file, '--work-dir', str(tmp_path)]):
        out = str(tmp_path / 'm.json')
        assert run_command('test', [*argv[:2], '--out', out, *argv[2:]]) == 0
        metrics.append(json.loads((tmp_path / 'm.json').read_text()))
    name, tolerance = ('mIoU', 0.2) if segmentor else ('coco/bbox_mAP', 2e-3)
    assert metrics[0][name] == pytest.approx(metrics[1][name], abs=tolerance) and metrics[0][name]
