"""The trainings on real datasets: how long they are, their label maps, their peers."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO

from effvim.config.reading import import_plugins
from effvim.datasets import synthetic
from effvim.formats.schedule import Schedule
from maintenance import real_data
from tests.helpers.paths import ROOT


@pytest.mark.parametrize('batch_size', [1, 4])
def test_epochs_fill_the_time(batch_size, tmp_path):
    """Steps, validations and the start-up together."""
    for split, number in (('train', 100), ('val', 30)):
        (tmp_path / f'{split}2017').mkdir()
        for i in range(number):
            (tmp_path / f'{split}2017/{i}.jpg').touch()
    trial = dict(
        epochs=2,
        seconds_per_step=0.5,
        seconds_per_validation_batch=0.2,
        validation_batch_size=batch_size,
    )

    def seconds(epochs):
        schedule = Schedule(100, 30, epochs)
        batches = -(-30 // batch_size)
        return 10 + schedule.steps * 0.5 + schedule.validations * batches * 0.2

    trial['seconds'] = seconds(2)
    epochs = real_data.affordable_epochs(trial, tmp_path, 300)
    assert epochs > 10 and seconds(epochs) <= 300 < seconds(epochs + 1)


def test_label_maps_are_the_union_of_masks(tmp_path):
    synthetic.draw_coco(tmp_path / 'coco', num_train=3, num_val=2, size=64)
    real_data.write_label_maps(tmp_path / 'coco', tmp_path / 'maps')
    coco = COCO(tmp_path / 'coco/annotations/instances_val2017.json')
    for image in coco.dataset['images']:
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image['id']]]
        stem = image['file_name'].rpartition('.')[0]
        labels = np.asarray(Image.open(tmp_path / f'maps/masks/val/{stem}.png'))
        assert (labels == np.max(masks, 0)).all() and set(np.unique(labels)) == {0, 1}
        assert (tmp_path / f'maps/images/val/{image["file_name"]}').is_file()


@pytest.mark.parametrize(
    ('name', 'original'),
    [
        ('rtmdet_tiny', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py'),
        ('retinanet_r18', 'retinanet/retinanet_r18_fpn_1x_coco.py'),
    ],
)
def test_peers_are_mmdets_networks(name, original):
    import mmdet

    shapes = []
    folder = Path(mmdet.__file__).parent / '.mim/configs'
    for path in (ROOT / f'maintenance/peers/{name}.py', folder / original):
        cfg = Config.fromfile(path)
        import_plugins(cfg)
        init_default_scope('mmdet')
        cfg.model.backbone.init_cfg = None
        model = MODELS.build(cfg.model)
        shapes.append({key: tuple(value.shape) for key, value in model.state_dict().items()})
        assert cfg.model.bbox_head.anchor_generator.strides[0] == 8
    assert shapes[0] == shapes[1]


def test_spread():
    from maintenance.tables import spread

    assert spread([0.5]) == '0.500' and spread([0.5, 0.7]) == '0.600 ± 0.141'
    assert spread([80.04]) == '80.0' and spread([-1.0, -1.0]) == '–'
