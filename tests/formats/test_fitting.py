"""What `effvim train --data` chooses: validations, batches, augmentation, what it says."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData
from PIL import Image

from backbone import UserError
from effvim.cli import main
from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import every_step, is_segmentor
from effvim.datasets import synthetic
from effvim.formats import fit
from effvim.formats.schedule import Schedule, learning_rate
from effvim.visualization.training_images import draw_training_image
from tests.helpers.cli import prepared_training
from tests.helpers.custom_data import (
    NO_WORKERS,
    annotation,
    draw_image,
    draw_masks,
    draw_yolo,
    run,
    write_coco,
)
from tests.helpers.grey import save_grey
from tests.helpers.paths import ROOT

CONFIGS = [
    ROOT / f'configs/{name}.py'
    for name in (
        'retinanet_effvim_m1',
        'rtmdet_effvim_m1',
        'rtmdet_ins_effvim_m4',
        'mask_rcnn_effvim_m1',
        'semfpn_effvim_m1',
    )
]


@pytest.mark.parametrize('num_images', [1, 3, 50, 205, 5000, 118_000])
@pytest.mark.parametrize('num_val', [1, 87, 5000])
@pytest.mark.parametrize('epochs', [1, 16, None])
def test_validations_take_little_of_the_time(num_images, num_val, epochs):
    """At most two of them, or a tenth of the images that training sees; one in a single epoch."""
    schedule = Schedule(num_images, num_val, epochs)
    seen = schedule.epochs * num_images
    number = len(range(schedule.interval, schedule.length, schedule.interval)) + 1  # at the end
    assert number == schedule.validations
    if schedule.epochs == 1:
        assert number == 1
    else:
        assert number == 2 or (3 <= number <= 10 and number * num_val <= 0.1 * seen)
    steps = Schedule(num_images, num_val, epochs, by_iteration=True)
    assert steps.length == schedule.steps and 1 <= steps.validations <= 10


@pytest.mark.parametrize(('processes', 'each'), [(1, 4), (2, 2), (3, 1), (4, 1), (8, 1)])
def test_processes_share_the_batch(processes, each):
    """As long as it has images for all of them; more steps are not made up for."""
    one, several = Schedule(100, 10), Schedule(100, 10, processes=processes)
    assert several.batch_size == each and several.epochs == one.epochs
    assert several.steps == several.epochs * -(-100 // (each * processes))


def test_the_users_batch_and_rate(tmp_path, monkeypatch, capsys):
    """Ten epochs see every image ten times; the rate is for all images of an update."""
    monkeypatch.chdir(tmp_path)
    draw_masks(Path('raw'), 32)
    assert run('split raw masks --val 0.25') == 0
    synthetic.draw_coco('own', num_train=24, num_val=2, size=64)

    def fitted(config, data, *options):
        argv = [str(ROOT / f'configs/{config}.py'), '--data', data, '--from-scratch']
        argv += ['--work-dir', 'run', '--epochs', '10', '--cfg-options', *options]
        return prepared_training(argv)[0]

    cfg = fitted('semfpn_effvim_m1', 'masks', 'train_dataloader.batch_size=8')
    assert cfg.train_cfg.max_iters == 10 * 24 // 8 and cfg.train_dataloader.batch_size == 8
    assert 'batch size 8' in capsys.readouterr().out
    rates = [
        fitted(
            'retinanet_effvim_m1', 'own', f'train_dataloader.batch_size={batch}', *more
        ).optim_wrapper.optimizer.lr
        for batch, more in ((16, []), (8, ['optim_wrapper.accumulative_counts=2']), (4, []))
    ]
    assert rates[0] == rates[1] == 2 * rates[2]
    capsys.readouterr()
    cfg = fitted('retinanet_effvim_m1', 'own', 'optim_wrapper.optimizer.lr=1e-05')
    assert cfg.optim_wrapper.optimizer.lr == 1e-5
    assert 'learning rate 1e-05' in capsys.readouterr().out
    with pytest.raises(UserError, match='--epochs'):
        fitted('retinanet_effvim_m1', 'own', 'train_cfg.max_epochs=20')


@pytest.mark.parametrize(
    'path', [*CONFIGS, ROOT / 'configs/gallery/yolox_effvim_m1.py'], ids=lambda path: path.stem
)
def test_learning_rates(path):
    """As documented from scratch, and the recipe's for its batch; by the root of the batch size."""
    cfg = load_config(str(path))
    scratch = 1e-3 if path.stem.startswith(('rtmdet', 'yolox')) else 5e-4
    rates = [learning_rate(cfg, total, True) for total in (1, 4, 16)]
    assert rates == [scratch, scratch, 2 * scratch]
    recipe = cfg.optim_wrapper.optimizer.lr
    base = 32 if path.stem.startswith(('rtmdet', 'semfpn', 'yolox')) else 16
    assert learning_rate(cfg, base, False) == recipe
    assert learning_rate(cfg, base // 4, False) == pytest.approx(recipe / 2, rel=0.05)


def source_of(path):
    """A dataset ./own, ready for training with a config."""
    if is_segmentor(load_config(str(path))):
        draw_masks(Path('drawn'), 8)
        assert run('split drawn own') == 0
    else:
        synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    return 'own'


@pytest.mark.parametrize('name', ['none', 'light', 'strong'])
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_presets_of_augmentation(name, path, tmp_path, monkeypatch):
    """Each loads images and objects, with as many pixels as the run wants."""
    monkeypatch.chdir(tmp_path)
    argv = [str(path), '--data', source_of(path), '--from-scratch', '--work-dir', 'run']
    cfg, spec = prepared_training([*argv, '--augment', name, '--epochs', '10'])
    pipelines = [cfg.train_dataloader.dataset.pipeline]
    switches = [hook for hook in cfg.custom_hooks if hook.type == 'PipelineSwitchHook']
    if name == 'strong' and not is_segmentor(cfg):
        assert [hook.switch_epoch for hook in switches] == [8]
        pipelines.append(switches[0].switch_pipeline)
    else:
        assert not switches
    assert spec.fitted['train_dataloader.dataset.pipeline'] == pipelines[0]
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    for pipeline in pipelines:
        dataset = DATASETS.build(
            dict(cfg.train_dataloader.dataset, pipeline=pipeline, _scope_=cfg.default_scope)
        )
        images = set()
        for _ in range(2):
            for sample in map(dataset.__getitem__, range(len(dataset))):
                images.add(sample['inputs'].numpy().tobytes())
                check_contents(sample)
        if not is_segmentor(cfg):  # whose crops are random always
            assert (len(images) == len(dataset)) == (name == 'none')


def check_contents(sample):
    """Boxes and label maps lie within the image, and boxes enclose masks."""
    contents = sample['data_samples']
    assert sample['inputs'].shape[1:] == contents.img_shape[:2]
    if 'gt_sem_seg' in contents:
        assert contents.gt_sem_seg.data.shape[1:] == contents.img_shape[:2]
        return
    instances = contents.gt_instances
    boxes = instances.bboxes.tensor.numpy()
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and boxes.min(initial=0) >= 0
    assert (boxes[:, [3, 2]] <= contents.img_shape[:2]).all()
    if 'masks' in instances:
        for box, mask in zip(boxes, instances.masks.masks):
            ys, xs = np.nonzero(mask)
            outside = (xs < box[0] - 2) | (xs > box[2] + 2) | (ys < box[1] - 2) | (ys > box[3] + 2)
            assert outside.mean() < 0.02


@pytest.mark.parametrize('name', ['none', 'light', 'strong'])
@pytest.mark.parametrize('kind', ['rtmdet_effvim_m1', 'mask_rcnn_effvim_m1', 'semfpn_effvim_m1'])
def test_objects_move_with_their_image(kind, name, tmp_path, monkeypatch):
    """One white square on black: boxes, masks and labels are where the image is bright."""
    monkeypatch.chdir(tmp_path)
    path = ROOT / f'configs/{kind}.py'
    pixels = np.zeros((96, 128, 3), np.uint8)
    pixels[20:70, 30:100] = 255
    if kind.startswith('semfpn'):
        for i in range(4):
            for folder, image in (('images', pixels), ('masks', pixels[..., 0] // 255)):
                Path('drawn', folder).mkdir(parents=True, exist_ok=True)
                image = image.copy()
                image[0, 0] = (folder == 'images') * i  # no copies of one file
                Image.fromarray(image).save(f'drawn/{folder}/{i}.png')
        Path('drawn/classes.txt').write_text('ground\nsquare\n')
        assert run('split drawn own --val 0.5') == 0
    else:
        for split in ('train', 'val'):
            Path(f'own/{split}2017').mkdir(parents=True)
            Image.fromarray(pixels).save(f'own/{split}2017/a.png')
            write_coco(
                f'own/annotations/instances_{split}2017.json',
                [dict(id=1, file_name='a.png', width=128, height=96)],
                [
                    annotation(
                        bbox=[30, 20, 70, 50],
                        area=3500,
                        segmentation=[[30, 20, 100, 20, 100, 70, 30, 70]],
                    )
                ],
            )
    argv = [str(path), '--data', 'own', '--from-scratch', '--work-dir', 'run']
    cfg, _ = prepared_training([*argv, '--augment', name, '--epochs', '10'])
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, _scope_=cfg.default_scope))
    seen = 0
    random.seed(0)
    np.random.seed(0)
    for sample in map(dataset.__getitem__, [0] * 12):
        image, contents = sample['inputs'].float().mean(0).numpy(), sample['data_samples']
        if 'gt_sem_seg' in contents:
            labels = contents.gt_sem_seg.data[0].numpy()
            middle = (image[labels != 255].max() + image[labels != 255].min()) / 2
            assert ((image > middle) == (labels == 1))[labels != 255].mean() > 0.97
            seen += (labels == 1).any()
            continue
        instances = contents.gt_instances
        for i, (x1, y1, x2, y2) in enumerate(instances.bboxes.tensor.round().int().tolist()):
            if min(x2 - x1, y2 - y1) < 8:
                continue
            inside = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            # mixup halves the brightness of white; that of black and of the padding is below 60
            assert np.median(inside) > (60 if name == 'strong' else 200)
            if 'masks' in instances:
                assert instances.masks.masks[i, y1:y2, x1:x2].mean() > 0.9
            seen += 1
        if name != 'strong':
            bright = np.argwhere(image > 200)
            corners = np.r_[bright.min(0)[::-1], bright.max(0)[::-1] + 1]
            (box,) = instances.bboxes.tensor.numpy()
            assert np.abs(corners - box).max() <= 2.5
    assert seen >= 10


def test_the_default_augmentation(tmp_path, monkeypatch, capsys):
    """The config's own, but RTMDet's is light: mosaics need a longer training."""
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    base = str(ROOT / 'configs/rtmdet_effvim_m1.py')
    Path('mine.py').write_text(
        f'_base_ = {base!r}\n'
        'train_dataloader = dict(dataset=dict(pipeline=[\n'
        "    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),\n"
        "    dict(type='CachedMosaic', img_scale=(640, 640)), dict(type='MyOwn'),\n"
        "    dict(type='PackDetInputs')]))\n"
    )

    def kinds(config, *flags, options=()):
        argv = [config, '--data', 'own', '--from-scratch', '--work-dir', 'run', *flags]
        cfg, _ = prepared_training([*argv, '--cfg-options', 'train_cfg.val_interval=1', *options])
        said.append('augmentation: light' in capsys.readouterr().out)
        return [step.type for step in cfg.train_dataloader.dataset.pipeline]

    said = []
    retinanet = str(ROOT / 'configs/retinanet_effvim_m1.py')
    recipes = {
        path: [s.type for s in load_config(path).train_dataloader.dataset.pipeline]
        for path in (retinanet, base, 'mine.py')
    }
    assert kinds(retinanet) == recipes[retinanet]
    assert kinds('mine.py') == recipes['mine.py']
    assert kinds(base, '--augment', 'config') == recipes[base]
    changed = 'train_dataloader.dataset.pipeline.3.ratio_range=(0.8,1.2)'
    assert kinds(base, options=[changed]) == recipes[base]
    assert not any(said)
    light = kinds(base)
    assert said[-1] and light == kinds(base, '--augment', 'light')
    assert not any('Mosaic' in kind for kind in light)
    with pytest.raises(UserError, match=r'pipeline\.3.*--augment'):
        kinds(base, '--augment', 'light', options=[changed])


def test_loading_steps_stay(tmp_path, monkeypatch):
    """Those up to the annotations, whatever they are called; without annotations it is an error."""
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    base = str(ROOT / 'configs/retinanet_effvim_m1.py')
    for kind, works in (('mmdet.LoadAnnotations', True), ('ReadMine', False)):
        Path('mine.py').write_text(
            f'_base_ = {base!r}\n'
            'train_dataloader = dict(dataset=dict(pipeline=[\n'
            "    dict(type='mmcv.LoadImageFromFile'), dict(type='Mine'),\n"
            f"    dict(type='{kind}', with_bbox=True), dict(type='PackDetInputs')]))\n"
        )
        argv = ['mine.py', '--data', 'own', '--from-scratch', '--work-dir', 'run']
        if not works:
            with pytest.raises(UserError, match='LoadAnnotations'):
                prepared_training([*argv, '--augment', 'light'])
            continue
        cfg, _ = prepared_training([*argv, '--augment', 'light'])
        assert [step.type for step in cfg.train_dataloader.dataset.pipeline] == [
            'mmcv.LoadImageFromFile',
            'Mine',
            kind,
            'RandomResize',
            'RandomFlip',
            'PackDetInputs',
        ]


@pytest.mark.parametrize('name', ['none', 'light', 'strong'])
def test_presets_take_grey_images(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    save_grey()
    argv = ['grey.py', '--data', 'own', '--from-scratch', '--work-dir', 'run', '--epochs', '10']
    cfg, _ = prepared_training([*argv, '--augment', name])
    import_plugins(cfg)
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for i in range(len(dataset)):
        assert dataset[i]['inputs'].shape[0] == 1


def test_elongated_images_are_named(own, capsys):
    draw_image(own / 'images/train/long.jpg', (4000, 200))
    draw_image(own / 'images/train/usual.jpg', (64, 48))
    for name in ('long', 'usual'):
        label = own / f'labels/train/{name}.txt'
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text('0 .5 .5 .2 .4\n')
    (own / 'data.yaml').write_text('train: images/train\nnames: [cat]\n')
    assert run('split own ready --val 0.5') == 0
    cfg = load_config(str(ROOT / 'configs/retinanet_effvim_m1.py'))
    # one of them is in train: exchange the splits until it is the long one
    path = Path('ready/annotations')
    if 'long.jpg' not in (path / 'instances_train2017.json').read_text():
        for kind in ('annotations/instances_{}2017.json', '{}2017'):
            train, val = (Path('ready', kind.format(split)) for split in ('train', 'val'))
            train.rename('other')
            val.rename(train)
            Path('other').rename(val)
    capsys.readouterr()
    fit.options(cfg, Path('ready'), from_scratch=True)
    out, err = capsys.readouterr()
    assert 'long.jpg (4000 × 200)' in err and 'tiles' in err and 'usual' not in err
    # as resized: the long side is as long as the scale allows
    said = int(err.split('its short side has ')[1].split(' pixels')[0])
    scale = [int(side) for side in re.search(r'to fit (\d+) × (\d+)', out).groups()]
    assert said == round(200 * min(max(scale) / 4000, min(scale) / 200))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_image_size_is_that_of_the_images(path, tmp_path, monkeypatch):
    """As the pipeline of the validation resizes them."""
    monkeypatch.chdir(tmp_path)
    argv = [str(path), '--data', source_of(path), '--from-scratch', '--work-dir', 'run']
    cfg, _ = prepared_training([*argv, '--image-size', '224'])
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    pipeline = [s for s in cfg.val_dataloader.dataset.pipeline if s.type != 'Pad']
    dataset = DATASETS.build(
        dict(cfg.val_dataloader.dataset, pipeline=pipeline, _scope_=cfg.default_scope)
    )
    sides = [max(dataset[i]['inputs'].shape[1:]) for i in range(len(dataset))]
    assert abs(np.median(sides) - 224) <= 32
    divisor = cfg.model.data_preprocessor.get('pad_size_divisor', 1)
    steps = [s for _, s in every_step(cfg) if s.type == 'Pad' and s.get('size')]
    assert all(side % divisor == 0 for step in steps for side in step.size)  # no second padding
    if is_segmentor(cfg):
        crop = next(s for s in cfg.train_dataloader.dataset.pipeline if s.type == 'RandomCrop')
        assert 128 <= min(crop.crop_size) <= 256


@pytest.mark.parametrize(('flags', 'number'), [([], 64), (['512'], 512)], ids=str)
def test_regions_of_two_stage_detectors_on_a_cpu(flags, number, tmp_path, monkeypatch, capsys):
    """The printed option overrides them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    path = ROOT / 'configs/mask_rcnn_effvim_m1.py'
    argv = [str(path), '--data', source_of(path), '--from-scratch', '--work-dir', 'run']
    option = 'model.train_cfg.rcnn.sampler.num'
    cfg, _ = prepared_training(
        [*argv, *(['--cfg-options', f'{option}={flags[0]}'] if flags else [])]
    )
    assert cfg.model.train_cfg.rcnn.sampler.num == number
    assert f'--cfg-options {option}=N' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ('--augment strong', '--augment goes with --data'),
        ('--patience 3', '--patience goes with --data'),
        ('--image-size 320', '--image-size goes with --data'),
        ('--data absent', '--data absent: no such directory'),
        ('--data ready --resume --work-dir run', 'effvim train retinanet_effvim_m1 --work-dir run'),
        ('--epochs 3 --resume', 'effvim train retinanet_effvim_m1 --resume'),
        ('--data ready --mini', 'drop --mini'),
        ('--dat ready', 'did you mean --data?'),
        ('--data ready --patience 0', 'at least 1'),
        ('--data ready --image-size 64', 'at least 128'),
        ('--data ready --augment heavy', 'invalid choice'),
    ],
)
def test_flags_that_cannot_be(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw_yolo(Path('shapes'), 4)
    assert run('split shapes ready') == 0
    capsys.readouterr()
    assert main.run(['train', 'retinanet_effvim_m1', '--from-scratch', *flags.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and words in err and err.count('\n') == 1


@pytest.mark.parametrize('kind', ['float', 'one', 'two', 'five', 'polygons', 'bitmaps'])
def test_every_kind_of_training_image_is_drawn(kind):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks, PolygonMasks

    import mmdet_plugin  # noqa: F401 - before anything of mmdet's models

    channels = {'one': 1, 'two': 2, 'five': 5}.get(kind, 3)
    image = np.zeros((channels, 8, 8), np.uint8)
    if kind == 'float':  # as PhotoMetricDistortion gives it
        image = np.full((3, 8, 8), 300.0, np.float32)
    instances = InstanceData(bboxes=torch.tensor([[1.0, 1, 6, 6]]), labels=torch.tensor([0]))
    if kind == 'polygons':
        instances.masks = PolygonMasks([[np.array([1.0, 1, 6, 1, 6, 6])]], 8, 8)
    elif kind == 'bitmaps':
        instances.masks = BitmapMasks(np.ones((1, 8, 8)), 8, 8)
    sample = DetDataSample(gt_instances=instances)
    drawn = np.asarray(draw_training_image(image, sample, ['cat']))
    assert drawn.shape == (8, 8, 3) and drawn.std() > 0


def test_the_image_of_the_training_images(tmp_path, monkeypatch, capsys):
    """As many cells as there were images, in the colours of the dataset; a dry run keeps none."""
    monkeypatch.chdir(tmp_path)
    for split, number in (('train', 5), ('val', 1)):
        images = [
            dict(id=i, file_name=f'{i}.png', width=64, height=64) for i in range(1, number + 1)
        ]
        write_coco(
            f'own/annotations/instances_{split}2017.json',
            images,
            [annotation(id=image['id'], image_id=image['id']) for image in images],
        )
        for image in images:
            file = Path(f'own/{split}2017/{image["file_name"]}')
            file.parent.mkdir(exist_ok=True, parents=True)
            Image.new('RGB', (64, 64), (200, 60, 20)).save(file)
    argv = ['train', 'retinanet_effvim_m1', '--data', 'own', '--from-scratch', '--epochs', '1']
    argv += ['--work-dir', 'run', '--image-size', '128', '--augment', 'light', '--patience', '1']
    assert main.run([*argv, '--dry-run', '--cfg-options', *NO_WORKERS]) == 0, (
        capsys.readouterr().err
    )
    assert not Path('run').exists()
    assert main.run([*argv, '--cfg-options', *NO_WORKERS]) == 0, capsys.readouterr().err
    with Image.open('run/train_images.jpg') as image:
        assert image.size == (1600, 800)
        shown = np.asarray(image).astype(int)
    cells = shown.reshape(2, 400, 4, 400, 3).transpose(0, 2, 1, 3, 4).reshape(8, -1, 3)
    filled = [np.abs(np.median(cell, 0) - (200, 60, 20)).max() < 12 for cell in cells]
    assert filled == [True] * 5 + [False] * 3
