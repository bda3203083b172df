"""The scripts of examples/ resize images as the pipelines of the configs do."""

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from effvim.config.reading import import_plugins, load_config
from effvim.export.onnx_file import resize_rules
from tests.helpers.exports import example_script, listing, path_of


def script(runtime):
    pytest.importorskip(runtime)
    return example_script(f'detect_{runtime}')


def pipeline_of(cfg):
    """The test pipeline from an image in memory, H W 3, BGR."""
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.default_scope)
    steps = [s for s in cfg.test_dataloader.dataset.pipeline if s.type != 'LoadAnnotations']
    return Compose([dict(type='LoadImageFromNDArray'), *steps[1:]])


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
@pytest.mark.parametrize('name', listing())
def test_images_are_those_of_the_pipeline(name, runtime):
    cfg = load_config(path_of(name))
    import_plugins(cfg)
    pipeline, rules = pipeline_of(cfg), resize_rules(cfg)
    rng = np.random.default_rng(0)
    for height, width in ((48, 64), (300, 210), (1100, 1530)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((width, height))
        sample = pipeline(dict(img=np.asarray(photo)[..., ::-1].copy(), img_id=0))
        expected = sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        image, (across, down) = script(runtime).resized(photo, rules)
        assert image.shape == expected.shape
        # segmentors resize twice
        assert np.abs(image.astype(int) - expected).mean() < (2 if rules['multiple'] else 0.5)
        if not rules['multiple']:
            scale = sample['data_samples'].metainfo['scale_factor']
            assert (across, down) == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize(
    'step',
    [
        dict(type='Pad', size_divisor=32),
        dict(type='Pad', size=(64, 64), pad_val=dict(img=(1, 2, 3))),
        dict(type='CenterCrop', crop_size=64),
        dict(type='Resize', scale_factor=0.5),
    ],
    ids=str,
)
def test_what_the_rules_do_not_know(step):
    pipeline = [dict(type='LoadImageFromFile'), step, dict(type='PackDetInputs')]
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    assert resize_rules(cfg) is None
