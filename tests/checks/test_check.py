"""`effvim check`: reports planted mistakes, passes correct data, counts as the tests do."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbone import EfficientViM
from effvim.config.precision import SLOWER
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

RETINANET, MASK_RCNN, SEMFPN = (
    ROOT / f'configs/{name}_effvim_m1.py' for name in ('retinanet', 'mask_rcnn', 'semfpn')
)
TRAIN, VAL = (f'annotations/instances_{split}2017.json' for split in ('train', 'val'))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_environment(run):
    """Each pin of requirements.txt is compared with what is installed."""
    status, out, content = run()
    assert status == 0
    pins = [
        line.split(';')
        for line in (ROOT / 'requirements.txt').read_text().splitlines()
        if '==' in line
    ]
    names = {pin.split('==')[0] for pin, *_ in pins}
    packages = content['environment']['packages']
    assert packages.keys() == names
    for name, installed in packages.items():
        try:
            assert installed == version(name)
        except PackageNotFoundError:
            assert not installed.startswith(name)
    assert content['environment']['threads']['torch'] == torch.get_num_threads()
    assert content['environment']['disk']['free_bytes'] <= shutil.disk_usage('.').total
    for word in ('python', 'operators', 'precision', 'GiB free'):
        assert word in out


@pytest.mark.parametrize('faster', [True, False])
def test_a_cpu_that_is_slower_in_bfloat16(run, faster, monkeypatch):
    monkeypatch.setattr('effvim.checks.environment.amp_available', lambda: True)
    monkeypatch.setattr('effvim.checks.environment.amp_is_faster', lambda: faster)
    _, out, _ = run()
    assert (' '.join(SLOWER.split()[:5]) in out) == (not faster)


def test_other_packages(run, monkeypatch):
    def other(name):
        if name == 'timm':
            raise PackageNotFoundError(name)
        if name.startswith('onedl-mmdet'):
            raise PackageNotFoundError(name)
        return {'mmdet': '3.3.0', 'rich': '1.0'}.get(name) or version(name)

    monkeypatch.setattr('effvim.checks.environment.version', other)
    status, out, _ = run()
    assert status == 1 and 'timm is not installed: pip install timm==' in out
    assert 'mmdet 3.3.0 instead of onedl-mmdetection' in out and 'rich 1.0, tested is' in out


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('config', [RETINANET, MASK_RCNN], ids=lambda p: p.stem)
def test_synthetic_dataset_is_fine(run, coco, config, workers, without_steps):
    status, _, content = run(config, '--from-scratch', '--data-root', coco, '--workers', workers)
    assert status == 0 and content['problems'] == []
    for split, path, images in (('training', TRAIN, 40), ('validation', VAL, 5)):
        ground_truth = json.loads((coco / path).read_text())
        reported = content['data'][split]
        assert reported['images'] == images
        assert reported['objects'] == len(ground_truth['annotations'])
        assert reported['classes'] == [c['name'] for c in ground_truth['categories']]
    assert content['data']['test'] == {'same_as': 'validation'}


def test_real_coco_is_fine(run, coco_root, without_steps):
    """As published: rounded boxes, run-length encoded crowds, tiny objects."""
    status, _, content = run(MASK_RCNN, '--from-scratch', '--data-root', coco_root)
    assert status == 0 and content['problems'] == []
    ground_truth = json.loads((coco_root / TRAIN).read_text())
    assert content['data']['training']['images'] == len(ground_truth['images'])


def test_real_ade_is_fine(run, ade_root, without_steps):
    status, _, content = run(SEMFPN, '--from-scratch', '--data-root', ade_root)
    assert status == 0 and content['problems'] == []


def annotation(content, i=3, **fields):
    content['annotations'][i].update(fields)
    return content['annotations'][i]['id']


def size_of(content, i):
    number = content['annotations'][i]['image_id']
    return next([i['height'], i['width']] for i in content['images'] if i['id'] == number)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda c: annotation(c, bbox=[60, 5, 30, 9]), ['a box that leaves its image', '30, 9]']),
        (lambda c: annotation(c, bbox=[50, 5, -9, 9]), ['a box of negative size', '-9']),
        (lambda c: annotation(c, image_id=777), ['no image of the file', '777']),
        (lambda c: annotation(c, category_id=99), ['no category of the file', '99']),
        (lambda c: annotation(c, segmentation=[[1, 2, 3]]), ['malformed mask', 'three points']),
        (lambda c: annotation(c, segmentation={'size': size_of(c, 3), 'counts': [9, 9]}), ['runs']),
        (lambda c: c['images'][2].update(width=640), ['another size', ' 640 × ']),
        (
            lambda c: c['images'][2].update(file_name=c['images'][1]['file_name']),
            ['more than once'],
        ),
        (lambda c: c['images'][2].update(file_name='gone.bmp'), ['not in', 'gone.bmp']),
    ],
)
def test_mistakes_in_the_annotations(run, coco, without_steps, change, words):
    """All of them are reported at once, with the annotation's ID."""
    number = []
    edit(coco / TRAIN, lambda c: number.append(change(c)))
    edit(coco / TRAIN, lambda c: annotation(c, 5, bbox=[-70, 5, 9, 9]))
    status, out, content = run(MASK_RCNN, '--from-scratch', '--data-root', coco)
    assert status == 1 and len(content['problems']) >= 1 and 'data: training' in out
    assert all(word in out for word in words), out
    assert not number[0] or f'annotation {number[0]}' in out
    assert '[-70, 5, 9, 9]' in out


def test_harmless_oddities_are_notes(run, coco, without_steps):
    edit(coco / TRAIN, lambda c: annotation(c, bbox=[5, 5, 0.5, 9]))
    edit(coco / TRAIN, lambda c: annotation(c, 4, segmentation=[[5, 5, 5.1, 5, 5, 5.1]]))
    edit(coco / TRAIN, lambda c: c['categories'].append({'id': 50, 'name': 'unicorn'}))
    edit(coco / VAL, lambda c: c['categories'].append({'id': 50, 'name': 'unicorn'}))
    status, out, _ = run(MASK_RCNN, '--from-scratch', '--data-root', coco)
    assert status == 0
    for words in ('below 1 pixel', 'masks have no pixel', 'without an instance: unicorn'):
        assert words in out


def test_classes_in_another_order(run, coco, without_steps):
    edit(coco / VAL, lambda c: c['categories'].reverse())
    assert 'different orders' in run(RETINANET, '--from-scratch', '--data-root', coco)[1]


@pytest.mark.parametrize('how', ['empty', 'text', 'cut', 'JPEG', 'PNG'])
def test_images_that_cannot_be_decoded(run, coco, without_steps, how):
    path = coco / 'train2017' / json.loads((coco / TRAIN).read_text())['images'][7]['file_name']
    if how in ('JPEG', 'PNG'):
        Image.open(path).save(path, how)
    whole = path.read_bytes()
    path.write_bytes({'empty': b'', 'text': b'x' * 999}.get(how, whole[: len(whole) * 3 // 4]))
    argv = RETINANET, '--from-scratch', '--data-root', coco
    status, out, content = run(*argv)
    assert status == 1 and str(path) in out and len(content['problems']) == 1
    assert run(*argv, '--quick')[0] == 0  # decodes no image


def test_training_images_in_validation(run, coco, without_steps):
    train, val = (sorted((coco / f'{split}2017').iterdir()) for split in ('train', 'val'))
    shutil.copy(train[9], val[2])
    shutil.copy(train[3], train[4])
    status, out, content = run(RETINANET, '--from-scratch', '--data-root', coco)
    shared = [
        p['number'] for p in content['problems'] if 'in the training split as well' in p['what']
    ]
    assert status == 1 and shared == [1]
    assert f'{val[2]} is {train[9]}' in out and f'{train[4]} is {train[3]}' in out


def test_label_maps(run, ade, without_steps):
    """The histogram is NumPy's; two wrong label maps and a corrupt image are all reported."""
    argv = SEMFPN, '--from-scratch', '--data-root', ade
    status, out, content = run(*argv)
    assert status == 0 and 'classes without an instance' in out
    counts = np.zeros(256, int)
    for path in (ade / 'annotations/training').iterdir():
        counts += np.bincount(np.array(Image.open(path)).ravel(), minlength=256)
    reported = content['data']['labels of training']
    assert list(reported['pixels'].values()) == counts[1:151].tolist()
    assert reported['unlabelled'] == counts[0]
    paths = sorted((ade / 'annotations/training').iterdir())
    Image.fromarray(np.array(Image.open(paths[1])) + 150).save(paths[1])
    Image.fromarray(np.array(Image.open(paths[4]))[1:]).save(paths[4])
    image = sorted((ade / 'images/validation').iterdir())[1]
    image.write_bytes(image.read_bytes()[:-400])
    status, out, _ = run(*argv)
    assert status == 1 and all(str(path) in out for path in (paths[1], paths[4], image))


def test_weights(run, coco, without_steps, tmp_path):
    state = EfficientViM('m1').state_dict()
    torch.save(state, tmp_path / 'm1.pth')
    torch.save(EfficientViM('m2').state_dict(), tmp_path / 'm2.pth')
    argv = [
        RETINANET,
        '--data-root',
        coco,
        '--quick',
        '--cfg-options',
        f'model.backbone.init_cfg.checkpoint={tmp_path}/m1.pth',
    ]
    status, out, content = run(*argv)
    assert status == 0 and f'{len(state)} of {len(state)} tensors' in out
    assert content['weights']['backbone']['file'] == f'{tmp_path}/m1.pth'
    argv[-1] = argv[-1].replace('m1.pth', 'm2.pth')
    status, out, _ = run(*argv)
    assert status == 1 and 'another variant, m2' in out


def test_quick_imports_no_models(run, coco):
    loaded = {'mmdet.models', 'mmseg.models'} & sys.modules.keys()
    assert run(RETINANET, '--from-scratch', '--data-root', coco, '--quick')[0] == 0
    assert {'mmdet.models', 'mmseg.models'} & sys.modules.keys() == loaded


@pytest.mark.parametrize(
    'config, options',
    [
        (RETINANET, ['train_dataloader.dataset.pipeline.2.scale=(128,128)']),
        (
            SEMFPN,
            [
                'train_dataloader.dataset.pipeline.3.crop_size=(128,128)',
                'model.data_preprocessor.size=(128,128)',
            ],
        ),
    ],
    ids=['epochs', 'iterations'],
)
def test_cost_of_training(run, coco, ade, config, options):
    """With a batch of two images the estimate is what was measured."""
    root, num_images = (ade, 6) if config == SEMFPN else (coco, 40)
    status, _, content = run(
        config,
        '--from-scratch',
        '--data-root',
        root,
        '--cfg-options',
        'train_dataloader.batch_size=2',
        *options,
    )
    assert status == 0
    memory, time = content['cost']['memory'], content['cost']['time']
    assert memory['mebibytes'] == memory['measured'][1] >= memory['measured'][0] > 100
    assert time['seconds_per_step'] == pytest.approx(max(time['measured']))
    # some images have no object and are ignored
    steps = [-(-n // 2) for n in range(num_images * 9 // 10, num_images + 1)]
    assert round(time['seconds_per_epoch'] / time['seconds_per_step']) in steps
    assert list(Path().glob('work_dirs*')) == []


def test_a_checkpoint_of_other_classes_fits_apart_from_them(run, coco, tmp_path):
    from mmengine.registry import init_default_scope

    from effvim.config.reading import import_plugins, load_config

    cfg = load_config(str(RETINANET))
    import_plugins(cfg)
    init_default_scope('mmdet')
    from mmdet.registry import MODELS

    state = MODELS.build(cfg.model).state_dict()
    torch.save({'state_dict': state}, tmp_path / 'coco.pth')
    _, _, content = run(
        RETINANET,
        '--data-root',
        coco,
        '--cfg-options',
        f'load_from={tmp_path}/coco.pth',
        'train_dataloader.batch_size=1',
        'train_dataloader.dataset.pipeline.2.scale=(128,128)',
    )
    assert content['weights']['tensors'] == {'fit': len(state) - 2, 'wanted': len(state)}


@pytest.mark.parametrize(
    'argv',
    [
        ['--nonsense'],
        ['--workers', '-1'],
        ['--workers', 'x'],
        ['--workers', '999'],
        ['--mini'],
        ['--data-root', '.'],
        ['absent.py'],
        [str(RETINANET), '--data-root', 'absent'],
        [str(RETINANET), '--out', '.'],
        ['--out', 'file/report.json'],
        [str(RETINANET), '--mini', '--data-root', '.'],
    ],
    ids=' '.join,
)
def test_mistakes_in_the_command_line(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('mine')
    assert run_command('check', argv) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and err.count('\n') == 1
    assert Path('file').read_text() == 'mine'


@pytest.mark.skipif(sys.platform != 'linux' or torch.cuda.is_available(), reason='Linux only')
def test_peak_memory_is_counted_from_the_reset():
    """The memory for reading annotations does not count."""
    from effvim.engine.memory import peak_memory, reset_peak_memory

    block = np.ones(2**26)  # 512 MiB
    before = peak_memory()
    del block
    reset_peak_memory()
    assert peak_memory() < before - 400


def test_images_are_examined_after_opencv_used_threads(tmp_path):
    """A forked worker must not wait for threads that only its parent has."""
    code = f"""
import cv2, numpy as np, sys
from pathlib import Path
from effvim.checks.images import CocoImage, examine_all
cv2.setNumThreads(4)
cv2.resize(cv2.GaussianBlur(np.random.rand(2000, 2000, 3), (31, 31), 5), (3000, 3000))
path = Path({str(tmp_path / 'a.png')!r})
cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
results = examine_all([CocoImage(path, (8, 8), [])] * 80, 2, 'all')
assert len(results) == 80 and not any(result.wrong for result in results)
assert cv2.getNumThreads() == 4
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
