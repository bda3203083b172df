"""`Predictor` and `effvim infer` compared with `effvim test`, on checkpoints of small runs."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle

from backbone import UserError
from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from effvim.images import name_of_drawing, read_image
from effvim.inference import result_folders
from effvim.inference.batch_inference import predict_files
from effvim.inference.prediction import Prediction
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT
from tests.helpers.runs import call, files


def assert_same(first, second):
    """Equal results, up to the last digits of different batches."""
    assert np.array_equal(first.image, second.image) and first.classes == second.classes
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-4)
    same = first.labels == second.labels  # equal scores may change places
    assert same.mean() >= 0.9 if len(same) else True
    np.testing.assert_allclose(first.boxes[same], second.boxes[same], atol=0.05)
    assert first.label_map is None or len(np.unique(first.label_map)) > 1
    for a, b in ((first.masks, second.masks), (first.label_map, second.label_map)):
        assert (a is None) == (b is None)
        assert a is None or not a.size or (a == b).mean() > 0.99


def test_infer_predicts_what_test_measures(trained, tmp_path):
    """Boxes and masks equal the result files of `effvim test`, label maps its accuracy."""
    _, _, written = trained.infer(
        tmp_path / 'out', trained.val, '--json', '--score-thr', 0, '--batch', 2
    )
    names = [path.name for path in sorted(trained.val.iterdir())]
    images = json.loads(written['images.json'].read_text())
    assert [image['file_name'] for image in images['images']] == names
    for name in names:
        with Image.open(written[f'images/{name_of_drawing(name)}']) as image:
            image.load()
            assert image.width == Image.open(trained.val / name).width
    flags = ['--out', tmp_path / 'm.json', '--work-dir', tmp_path / 'work']
    if trained.kind == 'semfpn':
        call('test', trained.config, trained.checkpoint, *flags)
        numbers = json.loads((tmp_path / 'm.json').read_text())
        right = every = 0
        for name in names:
            ground_truth = np.array(Image.open(trained.root / 'annotations/validation' / name))
            labels = np.array(Image.open(written[f'labels/{name}.png']))
            right, every = right + (labels + 1 == ground_truth).sum(), every + ground_truth.size
        assert abs(numbers['aAcc'] - 100 * right / every) < 0.1
        assert images['categories'] == [
            {'id': i, 'name': name} for i, name in enumerate(synthetic.ADE_CLASSES)
        ]
        return
    call(
        'test',
        trained.config,
        trained.checkpoint,
        *flags,
        '--cfg-options',
        f'+test_evaluator.outfile_prefix={tmp_path}/test',
    )
    ground_truth = json.loads((trained.root / 'annotations/instances_val2017.json').read_text())
    assert images['categories'] == [
        {'id': c['id'], 'name': c['name']} for c in ground_truth['categories']
    ]
    for kind in ('bbox', 'segm') if trained.kind == 'mask_rcnn' else ('bbox',):
        ours = json.loads(written[f'detections.{kind}.json'].read_text())
        theirs = json.loads((tmp_path / f'test.{kind}.json').read_text())
        assert len(ours) == len(theirs) >= 50
        key = lambda d: (d['image_id'], -round(d['score'], 4), d['category_id'])  # noqa: E731
        agree = 0
        for a, b in zip(sorted(ours, key=key), sorted(theirs, key=key)):
            assert a['image_id'] == b['image_id'] and abs(a['score'] - b['score']) < 1e-3
            if kind == 'bbox':
                agree += np.allclose(a['bbox'], b['bbox'], atol=0.05)
            else:
                one, other = rle.decode(a['segmentation']), rle.decode(b['segmentation'])
                agree += (one != other).sum() <= 0.02 * one.size
        assert agree >= 0.9 * len(ours)


def test_checkpoint_alone_is_enough(trained):
    path = sorted(trained.val.iterdir())[0]
    assert_same(
        Predictor(trained.checkpoint)(path), Predictor(trained.config, trained.checkpoint)(path)
    )


def test_checkpoint_of_a_packaged_config_may_be_moved(trained, tmp_path):
    path = sorted(trained.val.iterdir())[0]
    os.link(trained.checkpoint, tmp_path / 'moved.pth')
    assert_same(Predictor(tmp_path / 'moved.pth')(path), Predictor(trained.checkpoint)(path))


def test_other_images_of_a_batch_change_nothing(trained):
    """Images of several shapes, as paths, arrays and Pillow images, in batches and one by one."""
    paths = sorted(trained.val.iterdir())
    images = [*paths, read_image(paths[0])[:48], Image.open(paths[1]).rotate(90, expand=True)]
    single, several = (Predictor(trained.checkpoint, batch_size=n) for n in (1, 3))
    predictions = several(images)
    assert len(predictions) == len(images) == 7
    for image, one in zip(images, predictions):
        assert_same(one, single(image))
    streamed = dict(several.stream(zip('abcdefg', images)))
    assert sorted(streamed) == list('abcdefg')
    assert np.array_equal(streamed['c'].image, read_image(paths[2]))


def test_folding_changes_nothing(trained):
    path = sorted(trained.val.iterdir())[0]
    assert_same(
        Predictor(trained.checkpoint)(path), Predictor(trained.checkpoint, fuse=False)(path)
    )


def test_predictions_lie_in_the_image(trained):
    path = sorted(trained.val.iterdir())[1]
    prediction = Predictor(trained.checkpoint)(path)
    height, width = prediction.image.shape[:2]
    if trained.kind == 'semfpn':
        assert prediction.label_map.shape == (height, width) and prediction.boxes.shape == (0, 4)
        return
    assert (np.diff(prediction.scores) <= 0).all() and len(prediction.scores) == 20
    assert (prediction.boxes >= -1e-3).all()
    assert (prediction.boxes <= np.array([width, height] * 2) + 1e-3).all()
    assert (prediction.masks is not None) == (trained.kind == 'mask_rcnn')
    assert prediction.masks is None or prediction.masks.shape == (20, height, width)
    middle = float(prediction.scores[10])
    fewer = prediction.above(middle)
    assert len(fewer.scores) == (prediction.scores >= middle).sum() < 20
    assert (fewer.masks is None) == (prediction.masks is None)


def test_drawing_shows_what_is_kept():
    image = np.full((90, 120, 3), 200, np.uint8)
    prediction = Prediction(
        image,
        ('cat', 'dog'),
        np.float32([[30, 40, 80, 70], [10, 20, 20, 60]]),
        np.float32([0.9, 0.2]),
        np.array([1, 0]),
    )
    assert np.array_equal(prediction.draw(1.0), image)
    changed = (np.array(prediction.draw(0.5)) != image).any(2)
    assert changed[40:71, [30, 80]].all() and changed[[40, 70], 30:81].all()
    assert not changed[45:66, 35:76].any() and not changed[72:].any() and not changed[:, :29].any()
    assert changed[25:39, 32:60].any()  # the name
    masks = np.zeros((2, 90, 120), bool)
    masks[0, 50:60, 40:50] = True
    drawn = np.array(dataclasses.replace(prediction, masks=masks).draw(0.5))
    assert (drawn != image).any(2)[45:66, 35:76].sum() == 100
    labels = np.repeat([[0] * 60 + [1] * 60], 90, 0)
    drawn = np.array(Prediction(image, ('cat', 'dog'), label_map=labels).draw())
    assert drawn.shape[0] > 90 and len(np.unique(drawn[:90].reshape(-1, 3), axis=0)) == 2


GOOD = {'cmyk.jpg', 'sixteen.png', 'rgba.png', 'turned.jpg', 'sub/rgba.png', 'whole.JPG'}


def test_corrupt_images_are_listed_and_the_others_predicted(detector, mess, tmp_path):
    out, errors, written = detector.infer(
        tmp_path / 'out', mess, '--json', '--score-thr', 0, '--batch', 4, status=1
    )
    assert '6 of 9 images done' in out
    listed = errors.split('3 could not be read:')[1].strip().splitlines()
    assert [Path(line.split(' cannot')[0].strip()) for line in listed] == [
        mess / name for name in ('cut.jpg', 'empty.png', 'text.jpg')
    ]
    assert written.keys() == {
        'images.json',
        'detections.bbox.json',
        *(f'images/{name_of_drawing(name)}' for name in GOOD),
    }
    images = json.loads(written['images.json'].read_text())['images']
    assert {image['file_name'] for image in images} == GOOD
    detections = json.loads(written['detections.bbox.json'].read_text())
    assert {d['image_id'] for d in detections} == {image['id'] for image in images}


def test_an_image_that_is_too_thin_is_skipped(detector, tmp_path):
    """Resized to the network's input it would have no rows."""
    folder = tmp_path / 'images'
    folder.mkdir()
    Image.new('RGB', (3000, 2)).save(folder / 'thin.png')
    Image.new('RGB', (60, 40)).save(folder / 'whole.png')
    printed, errors, written = detector.infer(tmp_path / 'out', folder, status=1)
    assert '1 of 2 images done' in printed
    assert errors.startswith(f'skipped: {folder}/thin.png: 3000 × 2 pixels are too long and thin')
    assert errors.count('\n') == 3  # this line, and the list at the end
    assert 'images/whole.png' in written
    with pytest.raises(UserError, match='the image: 3000 × 2 pixels are too long and thin'):
        Predictor(detector.checkpoint)(folder / 'thin.png')


def test_a_source_is_never_replaced(detector, tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    result_folders.claim(folder)
    for name in ('a.jpg', 'b.png', 'c.bmp'):
        Image.new('RGB', (60, 40)).save(folder / name)
    (tmp_path / 'link').symlink_to(tmp_path)
    (tmp_path / 'chosen').mkdir()
    (tmp_path / 'chosen/a.jpg').symlink_to('../images/a.jpg')
    content = {path: path.read_bytes() for path in folder.iterdir()}
    predictor = Predictor(detector.checkpoint)
    for path in (folder / 'a.jpg', folder / 'b.png', tmp_path / 'chosen/a.jpg'):
        for out in (tmp_path, tmp_path / 'link'):
            with pytest.raises(UserError, match=f'{path.name} would be replaced by an annotated'):
                predict_files(predictor, [path], out)
    predict_files(predictor, [folder / 'c.bmp'], tmp_path)
    assert (folder / 'c.bmp.png').is_file()
    assert {path: path.read_bytes() for path in content} == content


@pytest.mark.parametrize('flags', [[], ['--save', 'yolo']])
def test_only_results_are_replaced(detector, tmp_path, flags, capsys):
    """Files of the user's that happen to be where results go are not."""
    image = sorted(detector.val.iterdir())[0]
    place = tmp_path / ('yolo/labels' if flags else 'images')
    place.mkdir(parents=True)
    (place / 'mine.txt').write_text('mine')
    argv = [str(detector.checkpoint), str(image), '--out', str(tmp_path), *flags]
    assert run_command('infer', argv) == 2
    err = capsys.readouterr().err
    assert 'holds files that effvim infer has not written' in err and err.count('\n') == 1
    assert files(tmp_path).keys() == {str((place / 'mine.txt').relative_to(tmp_path))}
    shutil.rmtree(place.parent if flags else place)
    for _ in range(2):  # the second replaces the results of the first
        assert run_command('infer', argv) == 0


def test_images_that_would_share_an_annotated_image(detector, tmp_path):
    for name in ('a.tif', 'a.tif.png'):
        Image.new('RGB', (60, 40)).save(tmp_path / name)
    with pytest.raises(UserError, match=r'tif and .*a\.tif\.png would share one annotated image'):
        predict_files(Predictor(detector.checkpoint), sorted(tmp_path.iterdir()), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_orientation_is_applied(detector, mess):
    """A rotated photograph gives the predictions of the upright one, in upright coordinates."""
    image = Image.open(mess / 'turned.jpg')
    upright = np.array(image.rotate(-90, expand=True))
    predictor = Predictor(detector.checkpoint)
    assert_same(predictor(mess / 'turned.jpg'), predictor(upright))


def test_output_inside_the_input_directory_is_skipped(detector, mess, tmp_path):
    first = detector.infer(mess / 'out', mess, status=1)
    second = detector.infer(mess / 'out', mess, status=1)
    assert first[2].keys() == second[2].keys() and first[0] == second[0]
    pattern = detector.infer(tmp_path / 'globbed', mess / 'sub/*.png', mess / 'rgba.png')
    assert pattern[2].keys() == {'images/sub/rgba.png', 'images/rgba.png'}


def test_two_processes_share_the_images(detector, mess, tmp_path):
    """Under torchrun the files are those of one process, and corrupt images are still listed."""
    flags = ('--json', '--score-thr', '0', '--batch', '2')
    _, _, alone = detector.infer(tmp_path / 'one', mess, *flags, status=1)
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc-per-node=2',
            '--standalone',
            str(ROOT / 'tools/infer.py'),
            str(detector.config),
            str(detector.checkpoint),
            str(mess),
            '--out',
            str(tmp_path / 'two'),
            *flags,
            '--launcher',
            'pytorch',
        ],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 1 and done.stdout.count('6 of 9 images done') == 1, done.stderr
    assert done.stderr.count('3 could not be read:') == 1
    shared = files(tmp_path / 'two')
    assert shared.keys() == alone.keys()
    one, two = (json.loads(f['detections.bbox.json'].read_text()) for f in (alone, shared))
    assert [d['image_id'] for d in one] == [d['image_id'] for d in two]
    np.testing.assert_allclose([d['score'] for d in one], [d['score'] for d in two], atol=1e-4)


def test_full_disk_leaves_nothing_half_written(detector, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, 'No space left on device')

    argv = [
        str(a)
        for a in (detector.config, detector.checkpoint, detector.val, '--out', tmp_path / 'out')
    ]
    monkeypatch.setattr('os.fsync', full)
    assert run_command('infer', argv) == 2
    assert 'cannot be written: No space left on device' in capsys.readouterr().err
    assert not files(tmp_path / 'out')


def test_mistakes_end_in_one_line_before_anything_is_loaded(detector, tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'empty').mkdir()
    image = sorted(detector.val.iterdir())[0]
    good = [detector.config, detector.checkpoint, image, '--out', tmp_path / 'out']
    cases = [
        ([*good[:4], tmp_path / 'file'], 'cannot be written'),
        ([*good, '--score-thr', 1.5], 'from 0 to 1'),
        ([*good, '--batch', 0], 'at least 1'),
        ([*good[:2], tmp_path / 'no.jpg', *good[3:]], 'no such image'),
        ([*good[:2], tmp_path / 'empty', *good[3:]], 'there is no image'),
        ([*good[:1], tmp_path / 'no.pth', *good[2:]], 'no.pth not found'),
        ([*good, '--data-root', 'x'], 'unrecognized arguments: --data-root'),
    ]
    code = f"""
import sys
from effvim.cli import main
for argv in {[[str(a) for a in argv] for argv, _ in cases]!r}:
    print(main.run(['infer', *argv]), 'mmdet' in sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * len(cases), done.stderr
    for (_, expected), line, loaded in zip(cases, lines[::2], lines[1::2]):
        assert line.startswith('error: ') and expected in line
        assert loaded == '2 False'


def test_predictor_names_the_mistake(detector, tmp_path):
    content = checkpoint.read(detector.checkpoint)
    content['meta']['effvim']['config'] = 'own_config.py'
    torch.save(content, tmp_path / 'moved.pth')
    with pytest.raises(
        UserError, match=r'moved\.pth was trained with own_config\.py, which is nei'
    ):
        Predictor(tmp_path / 'moved.pth')
    with pytest.raises(UserError, match='use the config that it was trained with'):
        Predictor(ROOT / 'configs/retinanet_effvim_m2.py', detector.checkpoint)
    for device in ('GPU', 'cuda:99'):
        with pytest.raises(UserError, match=f'device=.{device}.: '):
            Predictor(detector.checkpoint, device=device)
    predictor = Predictor(detector.checkpoint)
    with pytest.raises(UserError, match='float64 of shape'):
        predictor(np.zeros((4, 4)))
    with pytest.raises(UserError, match=r'no\.jpg'):
        predictor([tmp_path / 'no.jpg'])


def test_classes_are_kept_and_dropped(detector, tmp_path):
    flags = ('--json', '--score-thr', 0)
    _, _, every = detector.infer(tmp_path / 'all', detector.val, *flags)
    _, _, some = detector.infer(
        tmp_path / 'some', detector.val, *flags, '--classes', 'disc', 'cross'
    )
    every, some = (json.loads(f['detections.bbox.json'].read_text()) for f in (every, some))
    images = json.loads((tmp_path / 'all/images.json').read_text())
    kept = {c['id'] for c in images['categories'] if c['name'] in ('disc', 'cross')}
    assert 0 < len(some) < len(every)
    assert some == [one for one in every if one['category_id'] in kept]
    _, errors, _ = detector.infer(tmp_path / 'none', detector.val, '--classes', 'disk', status=2)
    assert 'did you mean disc?' in errors
