"""Networks for greyscale images: trained, predicted and exported like others."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from PIL import Image

from backbone import EfficientViM
from effvim import Predictor
from effvim.config.reading import load_config
from tests.helpers.cli import run_command

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


@pytest.mark.usefixtures('grey')
def test_greyscale():
    predictor = Predictor('grey.py', 'grey.pth')
    predicted = predictor(IMAGE)
    assert len(predicted.boxes) == 10
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as OpenCV converts
    grey = np.rint(IMAGE @ weights).astype(np.uint8)[..., None].repeat(3, 2)
    np.testing.assert_allclose(predictor(grey).scores, predicted.scores, atol=5e-3)


@pytest.mark.usefixtures('grey')
def test_boxes_are_resized_with_the_images_that_are_trained_on():
    Image.fromarray(IMAGE[:64, :64]).save('a.png')
    pipeline = Compose(load_config('grey.py').train_dataloader.dataset.pipeline)
    box = dict(bbox=[8, 16, 24, 24], bbox_label=0, ignore_flag=0)
    sample = pipeline(dict(img_path='a.png', img_id=0, instances=[box]))
    assert sample['inputs'].shape == (1, 128, 128)
    assert sample['data_samples'].gt_instances.bboxes.tensor.tolist() in (
        [[16, 32, 48, 48]],
        [[80, 32, 112, 48]],  # flipped
    )


def test_the_message_names_the_channels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = {f'backbone.{n}': v for n, v in EfficientViM('m1', in_channels=4).state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, 'four.pth')
    assert run_command('infer', ['retinanet_effvim_m1', 'four.pth', '.', '--out', 'out']) == 2
    (tmp_path / 'a.png').write_bytes(b'')
    capsys.readouterr()
    assert run_command('infer', ['retinanet_effvim_m1', 'four.pth', 'a.png', '--out', 'out']) == 2
    assert 'images of 4 channels, the config says' in capsys.readouterr().err
