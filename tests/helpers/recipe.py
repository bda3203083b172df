"""The detectors' recipe as it is built, on images whose preprocessing is known by hand."""

import json
from pathlib import Path

from PIL import Image

from effvim.config.reading import import_plugins
from effvim.datasets import synthetic
from effvim.engine.runner import Runner
from tests.helpers.cli import prepared_training
from tests.helpers.paths import ROOT

CONFIGS = {name: str(ROOT / f'configs/{name}_effvim_m4.py') for name in ('retinanet', 'mask_rcnn')}
# width, height of an image → of the network's input: as large as 1333 × 800 allows
SIZES = {
    (640, 480): (1067, 800),
    (480, 640): (800, 1067),
    (640, 360): (1333, 750),
    (500, 375): (1067, 800),
    (640, 640): (800, 800),
    (300, 100): (1333, 444),
}
COLOUR = (10, 100, 200)


def draw_images_of_known_size(folder: Path) -> Path:
    """Draw a synthetic dataset; its first images have the `SIZES`, one colour and one box."""
    root = synthetic.draw_coco(folder, num_train=50, num_val=6, size=64)
    for split in ('train', 'val'):
        path = root / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for image, (width, height) in zip(content['images'], SIZES):
            Image.new('RGB', (width, height), COLOUR).save(
                root / f'{split}2017/{image["file_name"]}'
            )
            image.update(width=width, height=height)
            outline = [10, 20, 40, 20, 40, 80, 10, 80]
            content['annotations'] = [
                a for a in content['annotations'] if a['image_id'] != image['id']
            ]
            content['annotations'].append(
                {
                    'id': 10_000 + image['id'],
                    'image_id': image['id'],
                    'category_id': 1,
                    'iscrowd': 0,
                    'bbox': [10, 20, 30, 60],
                    'area': 1800,
                    'segmentation': [outline],
                }
            )
        path.write_text(json.dumps(content))
    return root


def recipe_runner(name: str, root: Path, work_dir: Path) -> Runner:
    """The Runner that `effvim train` builds for one of `CONFIGS`, without pretrained weights."""
    cfg, spec = prepared_training(
        [
            CONFIGS[name],
            '--data-root',
            str(root),
            '--work-dir',
            str(work_dir),
            '--cfg-options',
            'model.backbone.init_cfg=None',
            'train_dataloader.num_workers=0',
            'val_dataloader.num_workers=0',
        ]
    )
    import_plugins(cfg)
    return Runner(cfg, spec)
