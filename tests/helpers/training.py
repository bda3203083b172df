"""Small training runs on synthetic images, and the command lines for them."""

import json
import sys

import numpy as np
from mmengine.hooks import Hook
from PIL import Image
from pycocotools import mask as rle

from effvim.checkpoints import checkpoint
from effvim.config.reading import import_plugins
from effvim.datasets import synthetic
from tests.helpers import narrow
from tests.helpers.cli import prepared_training, run_command
from tests.helpers.paths import ROOT

RETINANET, MASK_RCNN, SEMFPN = (
    str(ROOT / f'configs/{name}_effvim_m1.py') for name in ('retinanet', 'mask_rcnn', 'semfpn')
)
BATCHES = 5
RATE = 1e-3
# Nothing is random but the initialisation, and the learning rate is constant.
PLAIN = [
    'train_dataloader.batch_size=1',
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
    'test_dataloader.num_workers=0',
    'train_dataloader.dataset.pipeline.2.scale=(96,64)',
    'train_dataloader.dataset.pipeline.3.prob=0.0',
    'train_dataloader.sampler.shuffle=False',
    'val_dataloader.dataset.pipeline.1.scale=(96,64)',
    'test_dataloader.dataset.pipeline.1.scale=(96,64)',
    'tta_pipeline.1.transforms.0.0.scale=(96,64)',
    'param_scheduler.0.start_factor=1.0',
    f'optim_wrapper.optimizer.lr={RATE}',
    'train_cfg.max_epochs=1',
]
# Random in every way: order, flips, stochastic depth; epochs of two and a half groups.
RANDOM = [
    'train_dataloader.dataset.pipeline.3.prob=0.5',
    'train_dataloader.sampler.shuffle=True',
    '+model.backbone.drop_path_rate=0.2',
    '+default_hooks.checkpoint.save_best=auto',
    'optim_wrapper.accumulative_counts=2',
]
TWO_EPOCHS = [*RANDOM, 'train_cfg.max_epochs=2']


def draw_cropped(folder):
    """Draw a dataset for detection whose images are cropped to 96 × 64 pixels.

    Six images are for training. One loses all its objects, so that BATCHES remain.
    """
    synthetic.draw_coco(folder, num_train=6, num_val=2, size=128)
    for split in ('train', 'val'):
        path = folder / f'annotations/instances_{split}2017.json'
        content = json.loads(path.read_text())
        for image in content['images']:
            file = folder / f'{split}2017/{image["file_name"]}'
            Image.open(file).crop((0, 0, 96, 64)).save(file)
            image.update(width=96, height=64)
        for annotation in content['annotations']:
            mask = rle.decode(annotation['segmentation'])[:64, :96]
            code = rle.encode(np.asfortranarray(mask))
            annotation.update(
                bbox=rle.toBbox(code).tolist(),
                area=int(mask.sum()),
                segmentation={**code, 'counts': code['counts'].decode()},
            )
        content['annotations'] = [a for a in content['annotations'] if a['area']]
        path.write_text(json.dumps(content))
    return folder


def training_argv(root, folder, *flags, config=RETINANET, more=()):
    """The command line of a plain run from scratch; `more` are further options of the config."""
    if config == RETINANET:
        # keeps an untrained network's predictions
        more = [*narrow.RETINANET, 'model.test_cfg.score_thr=0.0', *more]
    return [
        config,
        '--from-scratch',
        '--data-root',
        str(root),
        '--work-dir',
        str(folder),
        *map(str, flags),
        '--cfg-options',
        *PLAIN,
        *more,
    ]


def run(root, folder, *flags, **options):
    """Train; returns the content of the last checkpoint."""
    assert run_command('train', training_argv(root, folder, *flags, **options)) == 0
    return checkpoint.read(checkpoint.find_latest(folder))


def built_runner(argv):
    """The Runner of `effvim train ARGV…`, before it trains."""
    cfg, spec = prepared_training([str(a) for a in argv])
    import_plugins(cfg)
    from effvim.engine.runner import Runner

    return Runner(cfg, spec)


def prepared(root, folder, *flags, **options):
    """The Runner of the run that `run` would train."""
    return built_runner(training_argv(root, folder, *flags, **options))


def mistake(capsys, command, argv):
    """Run a command that must end in one line on stderr, without importing mmdet; the line."""
    loaded = 'mmdet.models' in sys.modules
    assert run_command(command, [str(a) for a in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: ')
    assert ('mmdet.models' in sys.modules) == loaded
    return lines[0]


def copy_of(state):
    """A state dict with tensors of its own."""
    return {name: value.clone() for name, value in state.items()}


class Recorder(Hook):
    """Keep the weights and learning rates after each iteration, and the validated weights."""

    def __init__(self):
        self.weights, self.measured, self.rates = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weights.append(copy_of(runner.model.state_dict()))
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.measured.append(copy_of(runner.model.state_dict()))
