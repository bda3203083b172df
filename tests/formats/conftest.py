"""Tests of own data work in a directory of their own."""

import pytest

from tests.helpers.custom_data import draw_image, write_coco, write_labels


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty directory ./own for a dataset."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own').mkdir()
    return tmp_path / 'own'


@pytest.fixture
def coco(own):
    """Images a.jpg and b.jpg; returns a function that writes the annotation file."""
    draw_image(own / 'train/a.jpg')
    draw_image(own / 'train/b.jpg', seed=1)
    return lambda *args, **kwargs: write_coco(own / 'annotations/train.json', *args, **kwargs)


@pytest.fixture
def yolo(own):
    """Returns a function that writes labels of a.jpg and data.yaml."""

    def write(line, names='[cat, dog]', **keys):
        draw_image(own / 'images/train/a.jpg')
        write_labels(own / 'labels/train/a.txt', line)
        lines = [f'{key}: {value}' for key, value in ({'train': 'images/train'} | keys).items()]
        write_labels(own / 'data.yaml', *lines, f'names: {names}')

    return write


@pytest.fixture
def damaged(own):
    """Twenty images in YOLO format, four of which have something wrong."""
    for i in range(20):
        draw_image(own / f'images/train/{i:02}.jpg', (100, 80), seed=i)
        write_labels(own / f'labels/train/{i:02}.txt', f'{i % 2} .5 .5 .25 .25')
    for i in (0, 1):
        path = own / f'images/train/{i:02}.jpg'
        path.write_bytes(path.read_bytes()[:400])
    write_labels(own / 'labels/train/02.txt', '0 .5 .5 .25 .25', '0 1 2', '0 .5 .5 .1 .1')
    write_labels(own / 'labels/train/03.txt', '7 .5 .5 .25 .25', '0 .9 .5 .6 .1')
    write_labels(own / 'data.yaml', 'train: images/train', 'names: [cat, dog]')
    return own


@pytest.fixture
def videos(own):
    """Five videos of two to six frames, and objects of two classes."""
    for video in range(5):
        for frame in range(2 + video):
            stem = f'v{video}_frame{frame}'
            draw_image(own / f'images/{stem}.jpg', seed=10 * video + frame)
            write_labels(own / f'labels/{stem}.txt', f'{video % 2} .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat, dog]')
    return own
