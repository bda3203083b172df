"""What `effvim train --data` chooses: validations, batches, augmentation, what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from effvim.cli import main
from effvim.config.augmentation import PRESETS
from effvim.config.reading import import_plugins, load_config
from effvim.config.structure import is_segmentor
from effvim.datasets import synthetic
from effvim.formats import fit
from effvim.formats.image_scale import image_scale
from effvim.formats.schedule import Schedule
from tests.helpers.cli import prepared_training
from tests.helpers.custom_data import draw_image, draw_masks, draw_yolo, run
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
    """At most two of them, or a tenth of the images that training sees."""
    schedule = Schedule(num_images, num_val, epochs)
    seen = schedule.epochs * num_images
    number = schedule.validations
    assert number == 2 or (3 <= number <= 10 and number * num_val <= 0.1 * seen)


@pytest.mark.parametrize(('processes', 'each'), [(1, 4), (2, 2), (3, 1), (4, 1), (8, 1)])
def test_processes_share_the_batch(processes, each):
    """As long as it has images for all of them; more steps are not made up for."""
    one, several = Schedule(100, 10), Schedule(100, 10, processes=processes)
    assert several.batch_size == each and several.epochs == one.epochs
    assert several.steps == several.epochs * -(-100 // (each * processes))


def source_of(path):
    """A dataset ./own, ready for training with a config."""
    if is_segmentor(load_config(str(path))):
        draw_masks(Path('drawn'), 8)
        assert run('split drawn own') == 0
    else:
        synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    return 'own'


@pytest.mark.parametrize('name', PRESETS)
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_presets_of_augmentation(name, path, tmp_path, monkeypatch):
    """Each loads images and objects; objects stay where the image shows them."""
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
        # without random changes both rounds give the same images
        assert (len(images) == len(dataset)) == (name == 'none') or is_segmentor(cfg)


def check_contents(sample):
    """The synthetic objects differ from what surrounds them: boxes enclose what masks show."""
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


def test_the_default_augmentation(tmp_path, monkeypatch, capsys):
    """The config's own, but single images: mosaics need a longer training."""
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    kinds = {}
    for name, flags in (('retinanet', []), ('rtmdet', []), ('rtmdet', ['--augment', 'light'])):
        path = str(ROOT / f'configs/{name}_effvim_m1.py')
        argv = [path, '--data', 'own', '--from-scratch', '--work-dir', 'run', *flags]
        cfg, _ = prepared_training(argv)
        key = (name, *flags)
        kinds[key] = [step.type for step in cfg.train_dataloader.dataset.pipeline]
        assert ('augmentation light' in capsys.readouterr().out) == (key == ('rtmdet',))
    own = load_config(str(ROOT / 'configs/retinanet_effvim_m1.py'))
    assert kinds['retinanet',] == [s.type for s in own.train_dataloader.dataset.pipeline]
    assert kinds['rtmdet',] == kinds['rtmdet', '--augment', 'light']
    assert not any('Mosaic' in kind for kind in kinds['rtmdet',])


def test_elongated_images_are_named(own, capsys):
    draw_image(own / 'images/train/long.jpg', (900, 60))
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
    assert 'long.jpg (900 × 60)' in err and 'tiles' in err and 'usual' not in err
    # as resized: the long side is as long as the scale allows
    said = int(err.split('its short side has ')[1].split(' pixels')[0])
    scale = [int(side) for side in re.search(r'to fit (\d+) × (\d+)', out).groups()]
    assert said == round(60 * min(max(scale) / 900, min(scale) / 60))


@pytest.mark.parametrize(
    ('side', 'expected'),
    [(8, 640), (32, 640), (48, 448), (64, 320), (300, 320)],  # in multiples of 32
)
def test_images_are_as_large_as_the_objects_need(side, expected):
    """Of 100 objects in images of 640 pixels, four are tiny."""
    cfg = load_config(str(ROOT / 'configs/rtmdet_effvim_m1.py'))
    sides = np.array([2.0] * 4 + [side] * 96) / 640
    sizes = np.full((100, 2), 640)
    assert image_scale(cfg, sizes, sides) == (expected, expected)
    assert image_scale(cfg, sizes, sides, image_size=512) == (512, 512)
    assert image_scale(cfg, sizes) == (640, 640)


def test_the_image_size_is_that_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.draw_coco('own', num_train=6, num_val=2, size=64)
    for name, expected in (('rtmdet', (192, 192)), ('retinanet', (192, 128))):
        path = str(ROOT / f'configs/{name}_effvim_m1.py')
        argv = [path, '--data', 'own', '--from-scratch', '--work-dir', name]
        cfg, _ = prepared_training([*argv, '--image-size', '192'])
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            (resize,) = [s for s in loader.dataset.pipeline if s.type == 'Resize']
            assert tuple(resize.scale) == expected


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ('--augment strong', '--augment goes with --data'),
        ('--patience 3', '--patience goes with --data'),
        ('--image-size 320', '--image-size goes with --data'),
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


def test_the_image_of_the_training_images(shapes):
    """Eight cells, in the colours of the dataset."""
    assert run('split shapes ready') == 0
    small = [
        f'{loader}_dataloader.{option}'
        for loader in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=False')
    ]
    argv = ['train', 'retinanet_effvim_m1', '--data', 'ready', '--from-scratch', '--epochs', '1']
    assert main.run([*argv, '--work-dir', 'run', '--cfg-options', *small]) == 0
    with Image.open('run/train_images.jpg') as image:
        assert image.size == (1600, 800)
        shown = np.asarray(image)
    originals = np.concatenate(
        [np.asarray(Image.open(p)).reshape(-1, 3) for p in Path('ready/train2017').iterdir()]
    )
    cells = shown.reshape(2, 400, 4, 400, 3).transpose(0, 2, 1, 3, 4).reshape(8, -1, 3)
    assert all((cell < 250).any(1).mean() > 0.5 for cell in cells)  # none is empty
    middle = np.median(shown[(shown < 250).any(2)], 0)
    assert np.abs(middle - np.median(originals, 0)).max() < 25
