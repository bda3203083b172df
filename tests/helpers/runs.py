"""Small trained runs, for tests of what comes after training."""

import contextlib
import io
from pathlib import Path

from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from effvim.inference.result_folders import MARK
from tests.helpers import narrow
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

KINDS = ('retinanet', 'mask_rcnn', 'semfpn')
# Keeps the low-scoring predictions of an untrained network, so that there is something to compare.
TEST = {
    'retinanet': [
        *narrow.RETINANET,
        'model.test_cfg.score_thr=0.0',
        'model.test_cfg.max_per_img=20',
    ],
    'mask_rcnn': [
        *narrow.MASK_RCNN,
        'model.test_cfg.rcnn.score_thr=0.0',
        'model.test_cfg.rcnn.max_per_img=20',
        'model.test_cfg.rpn.max_per_img=50',
        'model.train_cfg.rpn_proposal.max_per_img=50',
    ],
    'semfpn': [
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'model.data_preprocessor.size=(64,64)',
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.checkpoint.interval=3',
    ],
}
# The synthetic segmentation dataset in place of ADE20K.
ADE = [
    f'{split}_dataloader.dataset.{change}'
    for split in ('train', 'val', 'test')
    for change in ('type=BaseSegDataset', 'img_suffix=.bmp', 'seg_map_suffix=.bmp')
] + [
    f'+{split}_dataloader.dataset.metainfo.classes={synthetic.ADE_CLASSES!r}'
    for split in ('train', 'val', 'test')
]
SIZE = {'retinanet': '(96,64)', 'mask_rcnn': '(96,64)', 'semfpn': '(128,128)'}


def call(command, *argv):
    """Run `effvim COMMAND ARGV…`, which must succeed; returns its stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_command(command, [str(a) for a in argv]) == 0
    return out.getvalue()


class Run:
    """The checkpoint of a training run of one kind, its dataset and its config."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder
        self.config = ROOT / f'configs/{kind}_effvim_m1.py'
        draw = synthetic.draw_ade if kind == 'semfpn' else synthetic.draw_coco
        self.root = draw(folder / 'data', num_train=6, num_val=5, size=96)
        self.val = self.root / ('images/validation' if kind == 'semfpn' else 'val2017')
        options = [
            *TEST[kind],
            'train_dataloader.num_workers=0',
            'val_dataloader.num_workers=0',
            'test_dataloader.num_workers=0',
            'train_dataloader.batch_size=2',
        ]
        options += [
            f'{loader}_dataloader.dataset.pipeline.{step}.scale={SIZE[kind]}'
            for loader, step in (('train', 2), ('val', 1), ('test', 1))
        ]
        options += ADE if kind == 'semfpn' else ['train_cfg.max_epochs=1']
        call(
            'train',
            self.config,
            '--from-scratch',
            '--data-root',
            self.root,
            '--work-dir',
            folder / 'run',
            '--cfg-options',
            *options,
        )
        self.checkpoint = checkpoint.find_latest(folder / 'run')

    def infer(self, out, *argv, status=0):
        """Run `effvim infer`; returns its stdout, its stderr and its output files by name."""
        console, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(console), contextlib.redirect_stderr(errors):
            assert (
                run_command(
                    'infer', [str(a) for a in (self.config, self.checkpoint, *argv, '--out', out)]
                )
                == status
            ), errors.getvalue()
        return console.getvalue(), errors.getvalue(), files(out)


def files(folder):
    """The files below a directory, by their path relative to it, without marks of results."""
    return {
        str(path.relative_to(folder)): path
        for path in Path(folder).rglob('*')
        if path.is_file() and path.name != MARK
    }
