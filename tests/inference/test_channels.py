"""Networks for greyscale images: trained, predicted and exported like others."""

import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from backbone import EfficientViM
from effvim import Predictor
from effvim.config.editing import set_classes
from effvim.config.reading import import_plugins, load_config
from tests.helpers.cli import run_command
from tests.helpers.networks import randomised
from tests.helpers.paths import ROOT

CONFIG = """
_base_ = {base!r}
model = dict(
    data_preprocessor=dict(mean=[114.0], std=[57.0], bgr_to_rgb=False),
    backbone=dict(in_channels=1, init_cfg=None),
    test_cfg=dict(score_thr=0.0, nms_pre=50, max_per_img=10))
load = [
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True)]
pack = [dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
labels = [dict(type='LoadAnnotations', with_bbox=True)]
train_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
val_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
test_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
"""


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A network for greyscale images, in the current directory: grey.py and grey.pth."""
    monkeypatch.chdir(tmp_path)
    base = str(ROOT / 'configs/retinanet_effvim_m1.py')
    (tmp_path / 'grey.py').write_text(CONFIG.format(base=base))
    cfg = load_config('grey.py')
    set_classes(cfg, ('a', 'b'))
    import_plugins(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = randomised(revert_sync_batchnorm(MODELS.build(cfg.model))).eval()
    assert model.backbone.patch_embed.conv[0].conv.in_channels == 1
    meta = {'dataset_meta': {'classes': ('a', 'b')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'grey.pth')


IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.usefixtures('grey')
def test_greyscale():
    predictor = Predictor('grey.py', 'grey.pth')
    predicted = predictor(IMAGE)
    assert len(predicted.boxes) == 10
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as OpenCV converts
    grey = np.rint(IMAGE @ weights).astype(np.uint8)[..., None].repeat(3, 2)
    np.testing.assert_allclose(predictor(grey).scores, predicted.scores, atol=5e-3)


@pytest.mark.slow
@pytest.mark.usefixtures('grey')
def test_greyscale_exports(tmp_path):
    (tmp_path / 'images').mkdir()
    Image.fromarray(IMAGE).save('images/a.png')
    argv = ['grey.py', 'grey.pth', '--out', 'grey.onnx', '--images', 'images']
    assert run_command('export', argv) == 0
    expected, exported = (Predictor('grey.py', f'grey.{kind}')(IMAGE) for kind in ('pth', 'onnx'))
    np.testing.assert_allclose(exported.scores, expected.scores, atol=1e-3)


def test_the_message_names_the_channels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = {f'backbone.{n}': v for n, v in EfficientViM('m1', in_channels=4).state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, 'four.pth')
    assert run_command('infer', ['retinanet_effvim_m1', 'four.pth', '.', '--out', 'out']) == 2
    (tmp_path / 'a.png').write_bytes(b'')
    capsys.readouterr()
    assert run_command('infer', ['retinanet_effvim_m1', 'four.pth', 'a.png', '--out', 'out']) == 2
    assert 'images of 4 channels, the config says' in capsys.readouterr().err
