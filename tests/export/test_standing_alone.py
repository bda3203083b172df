"""Exported files without a config: the images and results of mmdet's and mmseg's pipelines."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image

from backbone.openmmlab import ops
from effvim.config.reading import import_plugins, load_config
from effvim.export.onnx_file import resize_rules
from effvim.inference.exported_file import normalised, resized_labels
from effvim.inference.exported_network import ExportedNetwork, prepare_image
from effvim.inference.network import Network
from effvim.inference.object_masks import paste
from effvim.inference.predictor import Predictor
from effvim.inference.preprocessing import Prepare
from tests.helpers.exports import listing, path_of, pipeline_of
from tests.helpers.paths import ROOT


def photo(height, width):
    """An image of blobs, H W 3, uint8."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.mark.parametrize('name', listing())
def test_images_are_those_of_the_pipeline(name):
    cfg = load_config(path_of(name))
    import_plugins(cfg)
    pipeline, rules = pipeline_of(cfg), resize_rules(cfg)
    for height, width in ((48, 64), (300, 210), (421, 640), (1100, 1530)):
        image = photo(height, width)
        sample = pipeline(dict(img=image[..., ::-1].copy(), img_id=0))
        found, place = prepare_image(image, rules)
        np.testing.assert_array_equal(found, sample['inputs'].numpy())
        about = sample['data_samples'].metainfo
        assert place.shape == about['img_shape'][:2] and place.original == about['ori_shape'][:2]
        assert place.scale == pytest.approx(about.get('scale_factor', place.scale), rel=0)


@pytest.mark.parametrize(
    'changes',
    [
        {0: dict(color_type='grayscale')},
        {0: dict(to_float32=True)},
        {1: dict(interpolation='nearest')},
        {1: dict(backend='pillow')},
        {2: dict(padding_mode='reflect')},
        {0: dict(type='LoadImageFromWebcam')},
    ],
    ids=str,
)
def test_other_pipelines_need_their_config(changes):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(64, 64)),
        dict(type='Pad', size=(64, 64)),
        dict(type='PackDetInputs'),
    ]
    for number, change in changes.items():
        assert resize_rules(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))))
        pipeline[number].update(change)
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    assert resize_rules(cfg) is None
    pipeline[1], pipeline[2] = pipeline[2], pipeline[1]  # padded before it is resized
    assert resize_rules(cfg) is None


def arrays(prediction):
    names = ('boxes', 'scores', 'labels', 'masks', 'label_map')
    return {name: getattr(prediction, name) for name in names}


@pytest.mark.parametrize('tile', [None, 64])
def test_results_are_those_with_the_config(made, tile):
    alone, with_config = Predictor(made.file, tile=tile), Predictor(made.config, made.file)
    assert isinstance(alone.network, ExportedNetwork) and isinstance(with_config.network, Network)
    for name in ('name', 'segments', 'classes', 'nms_iou', 'in_flight'):
        assert getattr(alone.network, name) == getattr(with_config.network, name), name
    images = [photo(96, 128), photo(131, 97)]
    pairs = zip(alone(images), with_config.in_tiles(tile)(images))
    for found, expected in pairs:
        assert found.label_map is not None or len(found.boxes) >= 5
        for name, value in arrays(expected).items():
            mine = arrays(found)[name]
            assert type(mine) is type(value), name
            if value is not None:
                np.testing.assert_array_equal(np.asarray(mine), np.asarray(value), err_msg=name)
                assert np.asarray(mine).dtype == np.asarray(value).dtype


START = """
import sys
from effvim.cli.main import run
status = run(sys.argv[1:])
loaded = [name for name in ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg') if name in sys.modules]
print(status, *loaded)
"""


def test_what_a_file_loads(made, tmp_path):
    """Only masks of objects need torch, nothing OpenMMLab, which together take seconds."""
    Image.fromarray(photo(96, 128)).save(tmp_path / 'a.png')
    argv = ['infer', str(made.file), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')]
    process = subprocess.run(
        [sys.executable, '-c', START, *argv, '--json'],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    loaded = ['torch'] * (made.kind == 'MaskRCNN')
    assert process.stdout.splitlines()[-1].split() == ['0', *loaded]
    assert (tmp_path / 'out/images/a.png.png').is_file()


def test_label_maps_take_pytorchs_nearest_label():
    rng = np.random.default_rng(0)
    sizes = [(rng.integers(1, 900, 2), rng.integers(1, 1500, 2)) for _ in range(60)]
    sizes += [((n, m), (m, n)) for n in range(1, 30) for m in range(1, 30)]
    for old, new in sizes:
        labels = rng.integers(0, 150, old)
        expected = F.interpolate(
            torch.from_numpy(labels)[None, None].float(), tuple(map(int, new)), mode='nearest-exact'
        )
        np.testing.assert_array_equal(resized_labels(labels, new), expected[0, 0].long().numpy())


def test_masks_are_pasted_as_mmdet_does():
    ops.install()
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * torch.tensor([90.0, 60.0])
    extent = torch.rand(40, 2, generator=generator) * 50
    extent[:3] = 0  # and one that is a line
    extent[3, 0] = 0
    boxes = torch.cat([low, (low + extent).minimum(torch.tensor([100.0, 70.0]))], 1)
    masks = torch.rand(40, 28, 28, generator=generator)
    found = paste(masks, boxes, (70, 100), 0.5)
    for i in range(40):
        patch, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], 70, 100)
        expected = torch.zeros(70, 100, dtype=torch.bool)
        expected[place] = patch[0] >= 0.5
        assert found[i].equal(expected), boxes[i]


@pytest.mark.parametrize('reverse', [False, True])
def test_normalised_images_are_those_of_pytorch(reverse):
    image = np.ascontiguousarray(photo(45, 67).transpose(2, 0, 1))
    how = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], reverse=reverse)
    expected = Prepare(**how, divisor=32)(torch.from_numpy(image)[None])[0]
    np.testing.assert_array_equal(normalised(image, **how, divisor=32), expected.numpy())
