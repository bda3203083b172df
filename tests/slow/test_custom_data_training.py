"""`effvim train --data`: what is fitted, the training of the docs' page, what is refused."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import every_step, is_segmentor
from effvim.datasets import synthetic
from effvim.formats import anchors, fit
from tests.helpers.cli import prepared_training, run_command
from tests.helpers.custom_data import (
    NO_WORKERS,
    draw_masks,
    draw_yolo,
    page,
    run,
)
from tests.helpers.paths import ROOT


def test_training_is_fitted_to_the_data(shapes):
    """The coverage of anchors is compared with a second computation of the IoU."""
    assert run('split shapes ready') == 0
    cfg = load_config(str(ROOT / 'configs/retinanet_effvim_m1.py'))
    fitted = fit.options(cfg, Path('ready'), from_scratch=False, epochs=None)
    short = fit.options(cfg, Path('ready'), from_scratch=False, epochs=3)
    assert fitted['train_cfg.max_epochs'] > short['train_cfg.max_epochs'] == 3
    assert short['param_scheduler'][1]['end'] == 3
    _, generator = anchors.anchor_generator(cfg)
    sizes = anchors.anchor_sizes(generator)
    boxes = np.array([(5, 5), (40, 44), (300, 20)], float)
    covered = 0
    for w, h in boxes:
        best = max(
            min(w, a) * min(h, b) / (w * h + a * b - min(w, a) * min(h, b)) for a, b in sizes
        )
        covered += best >= 0.5
    assert anchors.coverage(boxes, sizes) == covered / 3 and 0 < covered < 3
    small = np.full((9, 2), 9.0)
    better = anchors.best_scale(small, generator)
    assert better < generator.octave_base_scale
    assert anchors.coverage(small, anchors.anchor_sizes(generator, better)) == 1


SMALL = [
    '--from-scratch',
    '--epochs',
    '1',
    '--cfg-options',
    *NO_WORKERS,
]


def test_the_page_trains(shapes, regions, capsys):
    """The page's training for one epoch: its checkpoint can be evaluated and exported."""
    for line in page('data'):
        if line.startswith('split'):
            assert run(line) == 0
    lines = page('train')
    assert {line.split()[0] for line in lines} == {
        'retinanet_effvim_m4',
        'rtmdet_effvim_m4',
        'semfpn_effvim_m4',
    }
    for line in lines:
        name, *flags = shlex.split(line.replace('m4', 'm1'))
        assert run_command('train', [name, *flags, *SMALL]) == 0, capsys.readouterr().err
        folder = Path(flags[flags.index('--work-dir') + 1])
        assert 'train_dataloader.batch_size=4' in (folder / 'report/report.html').read_text()
        ckpt = Path((folder / 'last_checkpoint').read_text())
        argv = [name, str(ckpt), '--out', 'again.json']
        assert run_command('test', argv) == 0, capsys.readouterr().err
        metrics, again = (
            json.loads(p.read_text()) for p in (folder / 'metrics.json', Path('again.json'))
        )
        assert again == metrics and set(metrics) & {'coco/bbox_mAP', 'mIoU'}
        if 'semfpn' in name:  # after an epoch no detection is above the threshold
            argv = [name, str(ckpt), '--out', f'{folder}.onnx']
            assert run_command('export', argv) == 0, capsys.readouterr().err
        capsys.readouterr()
        assert run_command('train', [name, '--work-dir', str(folder), '--resume']) == 2
        assert 'finished' in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_learns(tmp_path, monkeypatch, capfd):
    """1,600 synthetic images, four epochs, minutes on two cores: box mAP of 0.25 and more."""
    monkeypatch.chdir(tmp_path)
    draw_yolo(Path('shapes'), 1600, size=160)
    assert run(page('data')[0]) == 0
    line = page('train')[0].replace('m4', 'm1')
    argv = [*shlex.split(line), '--from-scratch', '--amp', '--epochs', '4']
    assert run_command('train', argv) == 0
    assert json.loads(Path('run/metrics.json').read_text())['coco/bbox_mAP'] >= 0.25


@pytest.mark.parametrize(
    'path',
    [
        *sorted((ROOT / 'configs').glob('*.py')),
        *sorted((ROOT / 'configs/gallery').glob('*.py')),
    ],
    ids=lambda p: p.stem,
)
def test_every_config_takes_data(path, tmp_path, monkeypatch):
    """Small images are nowhere enlarged to COCO's size; the last epochs have a plain pipeline."""
    monkeypatch.chdir(tmp_path)
    if is_segmentor(load_config(str(path))):
        draw_masks(Path('own'), 6)
    else:
        synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    source = 'own'
    if Path('own/masks').exists():
        assert run('split own ready') == 0
        source = 'ready'
    cfg, _ = prepared_training([str(path), '--data', source, '--from-scratch', '--work-dir', 'run'])
    sizes = [
        step[key]
        for _, step in every_step(cfg)
        for key in ('scale', 'scales', 'crop_size', 'size', 'img_scale')
        if key in step
    ]
    assert sizes and max(np.max(size) for size in sizes) <= 512
    assert cfg.param_scheduler[1]['end'] == max(
        cfg.train_cfg.get('max_epochs') or 0, cfg.train_cfg.get('max_iters') or 0
    )
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_=cfg.default_scope))
    assert max(dataset[0]['inputs'].shape) <= 512  # every step takes its new size
    for hook in cfg.get('custom_hooks', []):
        if hook.type == 'PipelineSwitchHook':
            assert 0 < hook.switch_epoch < cfg.train_cfg.max_epochs
            assert max(hook.switch_pipeline[2]['scale']) <= 512


def test_dry_run(shapes, capsys):
    """A dry run on five small images, whose last batch is one of them."""
    for i in range(6, 12):
        for path in (
            Path(f'shapes/images/train/{i:05}.png'),
            Path(f'shapes/labels/train/{i:05}.txt'),
        ):
            path.unlink()
    assert run('split shapes ready') == 0
    argv = ['retinanet_effvim_m1', '--data', 'ready', '--work-dir', 'run', '--dry-run', *SMALL]
    assert run_command('train', argv) == 0, capsys.readouterr().err
    assert not Path('run').exists()


def test_data_of_the_wrong_kind(shapes, regions, capsys):
    assert run('split shapes boxes') == 0
    assert run('split regions masks') == 0
    for name, source, words in (
        ('semfpn', 'boxes', 'segmentor'),
        ('retinanet', 'masks', 'segmentors'),
        ('mask_rcnn', 'boxes', 'segmentation'),
        ('retinanet', 'shapes', 'effvim data split'),
        ('retinanet', 'boxes --auto-scale-lr', '--auto-scale-lr'),
    ):
        capsys.readouterr()
        argv = [f'{name}_effvim_m1', '--data', *source.split(), '--from-scratch']
        assert run_command('train', argv) == 2
        assert words in capsys.readouterr().err


def test_data_flags(shapes, capsys):
    assert run('split shapes ready') == 0
    for flags in (
        '--epochs 3',
        '--data ready --mini',
        '--data ready --resume',
        '--data ready --epochs 0',
        '--data absent',
    ):
        argv = [str(ROOT / 'configs/retinanet_effvim_m1.py'), *flags.split()]
        capsys.readouterr()
        assert run_command('train', argv) == 2
        assert capsys.readouterr().err.startswith('error: ')
