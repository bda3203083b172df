"""Predictions in tiles against those of whole images, with detectors that are right."""

import json
import re

import numpy as np
import pytest
import supervision as sv
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools import mask as rle

from effvim import Predictor
from effvim.config.tiling import Tiling
from effvim.inference.coco_results import encode_mask, encode_masks
from effvim.inference.network_output import NetworkOutput
from effvim.inference.prediction import Prediction
from effvim.inference.tiles import Grid, LabelBlender, Part, compact, merge_instances
from tests.helpers.cli import run_command
from tests.helpers.runs import KINDS, call

SIZE = (500, 700)
TILINGS = [Tiling(200, 0.2), Tiling(128, 0.5), Tiling(333, 0.0), Tiling(150, 0.7), Tiling(600, 0.2)]


@pytest.mark.parametrize('tiling', TILINGS)
@pytest.mark.parametrize('length', [1, 64, 199, 200, 201, 333, 1000, 1001])
def test_tiles_cover_an_axis_and_overlap(tiling, length):
    starts = tiling.starts(length)
    ends = [start + min(tiling.size, length) for start in starts]
    assert starts[0] == 0 and ends[-1] == length
    for end, start in zip(ends, starts[1:]):
        assert end - start >= np.floor(tiling.size * tiling.overlap)


def objects(seed, number=60, largest=90):
    """Boxes that do not overlap much, with scores and labels; x1 y1 x2 y2 in whole pixels."""
    rng = np.random.default_rng(seed)
    kept = []
    while len(kept) < number:
        size = rng.integers(12, largest, 2)
        corner = rng.integers(0, np.array(SIZE[::-1]) - size)
        box = np.concatenate([corner, corner + size])
        low = [np.maximum(box[:2], other[:2]) for other in kept]
        high = [np.minimum(box[2:], other[2:]) for other in kept]
        if not any((b > a).all() for a, b in zip(low, high)):
            kept.append(box)
        elif rng.random() < 0.02:
            largest = max(14, largest - 10)
    return np.array(kept, np.float32), rng.permutation(number) / number, rng.integers(0, 3, number)


def seen(window, boxes, scores, labels, with_masks=False):
    """What a perfect detector predicts in a tile: the visible part of each object."""
    inside = (
        np.concatenate(
            [
                np.maximum(boxes[:, :2], [window.left, window.top]),
                np.minimum(boxes[:, 2:], [window.right, window.bottom]),
            ],
            1,
        )
        - [window.left, window.top] * 2
    )
    visible = ((inside[:, 2:] - inside[:, :2]) >= 3).all(1)
    masks = None
    if with_masks:
        dense = np.zeros((visible.sum(), window.bottom - window.top, window.right - window.left))
        for mask, (x1, y1, x2, y2) in zip(dense, inside[visible].astype(int)):
            mask[y1:y2, x1:x2] = 1
        masks = compact(dense.astype(bool))
    # an object that is cut scores lower
    area, whole = (np.prod(b[:, 2:] - b[:, :2], 1) for b in (inside, boxes))
    return Part(
        inside[visible].astype(np.float32),
        (scores * area / whole)[visible].astype(np.float32),
        labels[visible],
        masks,
    )


@pytest.mark.parametrize('tiling', TILINGS)
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('largest', [40, 350])
def test_every_object_is_found_once_and_whole(tiling, seed, largest):
    boxes, scores, labels = objects(seed, 60 if largest == 40 else 12, largest)
    grid = Grid.of(tiling, *SIZE)
    merged = merge_instances(grid, [seen(w, boxes, scores, labels, True) for w in grid])
    if tiling.overlap == 0:  # tiles that share nothing cannot know what belongs together
        assert len(merged.boxes) >= len(boxes)
        return
    assert (np.diff(merged.scores) <= 0).all()
    order = [np.lexsort(b.T) for b in (merged.boxes, boxes)]
    np.testing.assert_array_equal(merged.boxes[order[0]], boxes[order[1]])
    np.testing.assert_array_equal(merged.labels[order[0]], labels[order[1]])
    for mask, (x1, y1, x2, y2) in zip(merged.masks, merged.boxes.astype(int)):
        assert mask.shape == SIZE
        assert mask.sum() == (y2 - y1) * (x2 - x1) and mask[y1:y2, x1:x2].all()


def test_objects_of_two_classes_and_neighbours_stay_apart():
    boxes = np.array([[60, 20, 130, 60], [60, 20, 130, 60], [131, 20, 200, 60]], np.float32)
    scores, labels = np.array([0.9, 0.8, 0.7]), np.array([0, 1, 0])
    grid = Grid.of(Tiling(128, 0.4), 128, 256)
    merged = merge_instances(grid, [seen(w, boxes, scores, labels) for w in grid])
    assert sorted(map(tuple, merged.boxes)) == sorted(map(tuple, boxes))


def test_no_pair_overlaps_more_than_the_detectors_nms_allows():
    """Two boxes of one object: in the tile that cuts both they differ, as whole ones hardly."""
    grid = Grid.of(Tiling(128, 0.5), 128, 192)
    cut = Part(  # what the first tile sees: IoU 0.26
        np.array([[100, 20, 128, 60], [120, 22, 128, 58]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([0, 0]),
    )
    whole = Part(  # IoU 0.57
        np.array([[36, 20, 96, 60], [58, 24, 96, 60]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([0, 0]),
    )
    assert len(merge_instances(grid, [cut, whole]).boxes) == 2
    merged = merge_instances(grid, [cut, whole], 0.5)
    assert merged.boxes.tolist() == [[100, 20, 160, 60]]
    assert len(merge_instances(grid, [cut, whole], 0.6).boxes) == 2


def test_no_objects():
    grid = Grid.of(Tiling(128, 0.4), 128, 256)
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    merged = merge_instances(
        grid, [Part(*none, compact(np.zeros((0, 128, 128), bool)))] * len(grid)
    )
    assert merged.boxes.shape == (0, 4) and len(merged.masks) == 0


@pytest.mark.parametrize('tiling', TILINGS)
def test_logits_are_averaged_with_weights(tiling):
    """Against a sum over whole images in float64."""
    grid = Grid.of(tiling, 97, 131) if tiling.size > 150 else Grid.of(tiling, *SIZE)
    generator = torch.Generator().manual_seed(0)
    total, weight = np.zeros((3, *grid.size)), np.zeros(grid.size)
    blender = LabelBlender(grid, 3)
    fall = [np.minimum(np.arange(n) + 1, n - np.arange(n)) for n in (grid.height, grid.width)]
    for window in grid:
        logits = torch.randn(3, grid.height, grid.width, generator=generator)
        blender.add(Part(None, None, None, logits=logits))
        place = np.s_[window.top : window.bottom, window.left : window.right]
        total[:, place[0], place[1]] += logits.numpy() * np.outer(*fall)
        weight[place] += np.outer(*fall)
    assert (blender.labels == total.argmax(0)).mean() > 0.9999  # rounding decides about the rest


@pytest.mark.parametrize('tiling', TILINGS)
@pytest.mark.parametrize('with_logits', [True, False])
def test_label_map_of_a_network_that_sees_only_pixels(tiling, with_logits):
    labels = np.random.default_rng(0).integers(0, 5, SIZE)
    grid = Grid.of(tiling, *SIZE)
    blender = LabelBlender(grid, 5)
    for window in grid:
        tile = window.cut_from(labels)
        logits = torch.nn.functional.one_hot(torch.from_numpy(tile), 5).permute(2, 0, 1).float()
        blender.add(Part(None, None, None, logits if with_logits else None, label_map=tile))
    np.testing.assert_array_equal(blender.labels, labels)


def test_run_lengths_of_masks_in_crops_are_cocos():
    rng = np.random.default_rng(0)
    dense = np.zeros((6, 40, 60), bool)
    for i, mask in enumerate(dense):
        part = mask[5 * i : 5 * i + 15, 8 * i : 8 * i + 20]
        part[:] = rng.random(part.shape) > 0.5
    dense[0, 0, 0] = dense[5, 39, 59] = dense[1, 39, 10] = True
    dense[2] = True
    for code, mask in zip(encode_masks(compact(dense)), dense, strict=True):
        assert code == encode_mask(mask)
        np.testing.assert_array_equal(rle.decode(code), mask)


def test_a_smaller_prediction():
    mask = np.zeros((1, 100, 200), bool)
    mask[0, 20:60, 40:120] = True
    box = np.array([[40, 20, 120, 60]], np.float32)
    for masks in (mask, compact(mask)):
        whole = Prediction(
            np.zeros((100, 200, 3), np.uint8), ('a',), box, np.ones(1), np.zeros(1, int), masks
        )
        assert whole.shrunk(200) is whole
        half = whole.shrunk(100)
        assert half.image.shape == (50, 100, 3)
        np.testing.assert_array_equal(half.boxes, box / 2)
        assert np.asarray(half.masks).sum() == 20 * 40


@pytest.mark.parametrize('kind', KINDS)
def test_an_image_of_one_tile_is_predicted_as_usual(kind, run_of):
    image = sorted(run_of(kind).val.iterdir())[0]
    expected = Predictor(run_of(kind).checkpoint)(image)
    found = Predictor(run_of(kind).checkpoint, tile=96)(image)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    if kind == 'semfpn':
        np.testing.assert_array_equal(found.label_map, expected.label_map)
    if kind == 'mask_rcnn':
        np.testing.assert_array_equal(np.asarray(found.masks), expected.masks)


@pytest.mark.parametrize('kind', KINDS)
def test_commands_predict_in_tiles(kind, run_of, tmp_path):
    run = run_of(kind)
    large = Image.new('RGB', (220, 130), 'white')
    for i, path in enumerate(sorted(run.val.iterdir())[:2]):
        large.paste(Image.open(path), (96 * i, 20 * i))
    (tmp_path / 'images').mkdir()
    large.save(tmp_path / 'images/large.png')
    large.crop((0, 0, 90, 80)).save(tmp_path / 'images/small.png')
    flags = ['--tile', 96, '--overlap', 0.25, '--json', '--score-thr', 0]
    out, errors, files = run.infer(tmp_path / 'out', tmp_path / 'images', *flags)
    assert '2 of 2 images done' in out and '1 images are no larger than a tile' in errors
    with Image.open(files['images/large.png']) as drawn:
        assert drawn.size[0] == 220
    content = json.loads(files['images.json'].read_text())
    assert {i['file_name'] for i in content['images']} == {'large.png', 'small.png'}
    if kind == 'mask_rcnn':
        masks = json.loads(files['detections.segm.json'].read_text())
        sizes = {tuple(m['segmentation']['size']) for m in masks}
        assert sizes == {(130, 220), (80, 90)}


@pytest.mark.parametrize('kind', KINDS)
def test_evaluation_in_tiles(kind, run_of, tmp_path):
    run, metrics = run_of(kind), []
    written = ['--cfg-options', f'+test_evaluator.outfile_prefix={tmp_path / "found"}']
    for flags in ([], ['--tile', '256'], ['--tile', '64', '--overlap', '0.5']):
        shown = ['--show-dir', tmp_path / 'shown'] * bool(flags)
        shown += written * (kind != 'semfpn')
        path = tmp_path / 'metrics.json'
        call('test', run.checkpoint, '--work-dir', tmp_path, '--out', path, *flags, *shown)
        metrics.append(json.loads(path.read_text()))
    whole, one, several = metrics
    assert one == pytest.approx(whole, abs=1e-6)
    assert several.keys() == whole.keys()
    assert len(list((tmp_path / 'shown').iterdir())) == 5

    predictions = {
        path.name: Predictor(run.checkpoint, tile=64, overlap=0.5)(path)
        for path in run.val.iterdir()
    }
    if kind == 'semfpn':
        right = every = 0
        for name, prediction in predictions.items():
            truth = np.array(Image.open(run.root / 'annotations/validation' / name))
            right, every = right + (prediction.label_map + 1 == truth).sum(), every + truth.size
        assert 0 < several['aAcc'] == pytest.approx(100 * right / every, abs=1e-9)
        return
    found = json.loads((tmp_path / 'found.bbox.json').read_text())
    content = json.loads((run.root / 'annotations/instances_val2017.json').read_text())
    for image in content['images']:
        boxes = np.array([d['bbox'] for d in found if d['image_id'] == image['id']])
        expected = predictions[image['file_name']].boxes
        assert len(boxes) == len(expected) > 0
        corners = np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]
        np.testing.assert_allclose(corners, expected, atol=1e-3)


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--tile', '10'], 'at least 64 pixels'),
        (['--tile', '128', '--overlap', '1'], 'below 1'),
        (['--tile', '128', '--overlap', '-0.1'], 'from 0'),
        (['--overlap', '0.1'], '--overlap goes with --tile'),
    ],
)
@pytest.mark.parametrize('command', ['infer', 'test'])
def test_mistakes(command, flags, words, run_of, tmp_path, capsys):
    run = run_of('retinanet')
    given = [str(run.val), '--out', str(tmp_path)] if command == 'infer' else []
    assert run_command(command, [str(run.checkpoint), *given, *flags]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r'error: [^\n]*\n', error) and words in error


@pytest.mark.parametrize('flag', [['--tta'], ['--report', 'report']])
def test_flags_for_whole_images(flag, run_of, capsys):
    assert run_command('test', [str(run_of('retinanet').checkpoint), '--tile', '96', *flag]) == 2
    assert f'{flag[0]} is for whole images' in capsys.readouterr().err


def test_an_image_beyond_the_limit(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr('effvim.inference.predictor.TILED_MEGAPIXELS', 0.02)
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (200, 150)).save(tmp_path / 'images/large.png')
    Image.new('RGB', (100, 100)).save(tmp_path / 'images/small.png')
    run = run_of('retinanet')
    out, errors, _ = run.infer(tmp_path / 'out', tmp_path / 'images', '--tile', 96, status=1)
    assert '1 of 2 images done' in out and 'large.png: 200 × 150 pixels are too many' in errors


def test_evaluation_reads_images_beyond_pillows_limit(run_of, tmp_path, monkeypatch, capsys):
    """In tiles, up to the limit of `effvim infer --tile`; the metrics are the same."""
    checkpoint, metrics = str(run_of('retinanet').checkpoint), {}
    shown = ['--show-dir', str(tmp_path / 'shown')]
    flags = ['--tile', '256', '--cfg-options', 'test_dataloader.num_workers=0', *shown]
    for name in ('plain', 'limited'):
        assert run_command('test', [checkpoint, *flags, '--out', str(tmp_path / name)]) == 0
        metrics[name] = json.loads((tmp_path / name).read_text())
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)
    assert metrics['plain'] == metrics['limited']
    assert run_command('test', [checkpoint, *flags[2:]]) == 2  # without tiles
    assert 'exceeds limit' in capsys.readouterr().err


def test_pillows_limit_is_raised_for_tiles_only(tmp_path, monkeypatch):
    from effvim.images import read_image

    Image.new('RGB', (50, 40)).save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    assert read_image(tmp_path / 'a.png', max_megapixels=1).shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_masks_are_those_of_supervision():
    assert isinstance(compact(np.ones((1, 4, 4), bool)), sv.CompactMask)


def test_one_output_for_two_classes():
    """mmseg compares its sigmoid with a threshold; the label map is of floating-point numbers."""
    labels = (np.random.default_rng(0).random((30, 40)) > 0.7).astype(np.int64)
    map_ = torch.from_numpy(labels)[None].float()
    sample = SegDataSample()
    sample.set_data(
        {'seg_logits': PixelData(data=map_ - 0.5), 'pred_sem_seg': PixelData(data=map_)}
    )
    part = Part.of(NetworkOutput.of(sample))
    assert part.label_map.dtype == np.int64
    grid = Grid.of(Tiling(48, 0.25), 30, 40)
    blender = LabelBlender(grid, 2)
    blender.add(part)
    np.testing.assert_array_equal(blender.labels, labels)
