"""`effvim infer --save`: files of each image that other programs read."""

import json
import os

import numpy as np
import supervision as sv
from PIL import Image

from effvim.inference.saved_formats import FORMATS
from tests.helpers.cli import run_command


def boxes_of(results, name):
    """The boxes x1 y1 x2 y2 of an image in COCO's results, sorted."""
    found = np.array([one['bbox'] for one in results if one['file_name'] == name])
    assert len(found)
    return np.sort(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1), 0)


def test_other_programs_read_the_same_boxes(saved, tmp_path):
    folder, out, results = saved
    classes = (out / 'yolo/classes.txt').read_text().splitlines()
    (tmp_path / 'data.yaml').write_text(json.dumps({'names': classes}))
    for name, stem in (('a.png', 'a'), ('ünï/b c.png', 'ünï/b c')):
        expected = boxes_of(results, name)
        place = (folder / name).parent
        yolo = sv.DetectionDataset.from_yolo(
            str(place), str((out / f'yolo/labels/{stem}.txt').parent), str(tmp_path / 'data.yaml')
        )
        labelme = sv.DetectionDataset.from_labelme(
            str(place), str((out / f'labelme/{stem}.json').parent)
        )
        for dataset in (yolo, labelme):
            ((_, _, found),) = dataset
            np.testing.assert_allclose(np.sort(found.xyxy, 0), expected, atol=0.01)
        shapes = json.loads((out / f'labelme/{stem}.json').read_text())
        seen = (out / f'labelme/{stem}.json').parent / shapes['imagePath']
        assert seen.resolve() == (folder / name).resolve()
        task = json.loads((out / f'label-studio/{stem}.json').read_text())
        assert len(task['predictions'][0]['result']) == len(expected)
        features = json.loads((out / f'geojson/{stem}.geojson').read_text())['features']
        assert len(features) == len(expected)
        assert list((out / 'crops').glob(f'*/{stem}_*.png'))
    assert task['data']['image'] == '/data/local-files/?d=%C3%BCn%C3%AF/b%20c.png'


def test_images_that_differ_in_their_suffix_keep_it(detector, tmp_path):
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'a.jpg'):
        Image.new('RGB', (60, 40)).save(tmp_path / 'in' / name)
    detector.infer(tmp_path / 'out', tmp_path / 'in', '--save', 'yolo')
    labels = sorted(path.name for path in (tmp_path / 'out/yolo/labels').iterdir())
    assert labels == ['a.jpg.txt', 'a.png.txt']


def test_it_is_for_images(detector, tmp_path, capsys):
    argv = [str(detector.checkpoint), '0', '--out', str(tmp_path), '--save', 'yolo']
    assert run_command('infer', argv) == 2
    assert capsys.readouterr().err.startswith('error: --save is for images, and there is none')


def test_what_cannot_be_written_is_said(detector, tmp_path, capsys):
    Image.new('RGB', (60, 40)).save(tmp_path / 'a.png')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/yolo').write_text('a file where the directory should be')
    argv = [str(detector.checkpoint), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')]
    assert run_command('infer', [*argv, '--save', 'yolo']) == 2
    assert f'error: {tmp_path}/out/yolo cannot be written: ' in capsys.readouterr().err


def test_names_that_are_not_utf8_and_directories_behind_links(detector, tmp_path):
    """As in archives of old programs; Labelme finds the image from where its file really is."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    name = os.fsdecode(b'\xe9.png')
    Image.new('RGB', (80, 60)).save(folder / name)
    (tmp_path / 'deep/er').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'deep/er')
    detector.infer(tmp_path / 'link', folder, '--json', '--score-thr', 0, '--save', *FORMATS)
    stem = name.removesuffix('.png')
    path = tmp_path / f'deep/er/labelme/{stem}.json'
    seen = path.parent / json.loads(path.read_text())['imagePath']
    assert seen.resolve() == folder / name
    task = json.loads((tmp_path / f'link/label-studio/{stem}.json').read_text())
    assert task['data']['image'] == '/data/local-files/?d=%E9.png'
