"""`effvim data split`: every class in both sets near to the wanted fraction, groups together."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvim.formats.dataset import AnnotatedImage, Dataset, Instance
from effvim.formats.split import find_copies, split
from tests.helpers.custom_data import assert_refused, draw_image, run, write_coco, write_labels


def dataset(labels, name='{}.jpg'):
    """A dataset of images with these labels; nothing is read from disk."""
    box = (0.0, 0.0, 9.0, 9.0)
    images = [
        AnnotatedImage(
            Path(name.format(i)), name.format(i), 64, 48, [Instance(n, box) for n in own]
        )
        for i, own in enumerate(labels)
    ]
    classes = tuple(f'c{n}' for n in range(1 + max(n for own in labels for n in own)))
    return Dataset(Path('own'), classes, {'all': images})


def images_of(images):
    """Number of images of each class; -1 stands for none."""
    return Counter(n for image in images for n in {i.label for i in image.instances} or {-1})


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('fraction', [0.1, 0.2, 0.5])
def test_every_class_has_its_fraction(fraction, seed):
    """Long-tailed, several classes in an image, some images without objects."""
    rng = random.Random(seed)
    weights = [1 / (n + 1) for n in range(20)]
    labels = [rng.choices(range(20), weights, k=rng.randrange(4)) for _ in range(400)]
    found = split(dataset(labels), fraction, seed)
    train, val = images_of(found.splits['train']), images_of(found.splits['val'])
    assert len(found.splits['val']) == round(fraction * 400)
    for label, total in (train + val).items():
        assert abs(val[label] - fraction * total) <= max(1, 0.05 * total), label
        if total > 1:
            assert val[label] and train[label], label


def test_frequent_classes_next_to_many_rare_ones():
    """Sixty classes of two images cannot all be in a val set of 48: the frequent one is there."""
    labels = [[i // 2] for i in range(120)] + [[60]] * 40
    val = images_of(split(dataset(labels), 0.3, 0).splits['val'])
    assert val[60] >= 4 and sum(val.values()) == 48 and max(val[n] for n in range(60)) == 1


def test_the_only_image_of_a_class_stays_in_train():
    labels = [[0]] * 9 + [[0, 1]]
    for seed in range(5):
        found = split(dataset(labels), 0.5, seed)
        assert images_of(found.splits['train'])[1] == 1 and len(found.splits['val']) == 5


def test_large_datasets_take_seconds():
    rng = random.Random(0)
    labels = [rng.choices(range(80), k=rng.randrange(8)) for _ in range(20_000)]
    found = split(dataset(labels), 0.2, 0)
    train, val = images_of(found.splits['train']), images_of(found.splits['val'])
    fractions = [val[n] / (val[n] + train[n]) for n in range(80)]
    assert len(found.splits['val']) == 4000
    assert np.abs(np.array(fractions) - 0.2).max() < 0.01


def videos_of(split):
    content = json.loads(Path(f'out/annotations/instances_{split}2017.json').read_text())
    return {image['file_name'].partition('_')[0] for image in content['images']}


@pytest.mark.parametrize('expression', [r'^(.*)_frame', r'(v\d)', r'v\d', r'/?(v[0-9]+)_'])
def test_groups_stay_together(expression, videos):
    assert run(f"split own out --val 0.3 --group-by '{expression}'") == 0
    train, val = videos_of('train'), videos_of('val')
    assert not train & val and train | val == {f'v{i}' for i in range(5)}
    assert {int(name[1]) % 2 for name in train} == {int(name[1]) % 2 for name in val} == {0, 1}


def test_groups_are_directories_too(videos):
    for path in [*(videos / 'images').iterdir(), *(videos / 'labels').iterdir()]:
        folder = path.parent / path.stem.partition('_')[0]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    assert run("split own out --val 0.3 --group-by '^([^/]+)/'") == 0
    assert not {name.split('/')[0] for name in videos_of('train')} & {
        name.split('/')[0] for name in videos_of('val')
    }


def test_groups_go_across_splits_that_share_names(own):
    """The names of the splits that are put in front of the images' group nothing."""
    for i, name in enumerate(f'{a}/{b}' for a in ('train', 'val') for b in 'abc'):
        draw_image(own / f'images/{name}/0.jpg', seed=i)
        write_labels(own / f'labels/{name}/0.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: images/train', 'val: images/val', 'names: [cat]')
    assert run("split own out --val 0.34 --group-by '^([^/]+)/'") == 0
    content = json.loads(Path('out/annotations/instances_val2017.json').read_text())
    names = {image['file_name'] for image in content['images']}
    assert len(names) == 2 and len({name.split('/')[1] for name in names}) == 1, names


def test_expressions_that_group_nothing(videos, capsys):
    assert_refused("split own out --group-by '('", capsys, 'regular expression')
    assert_refused("split own out --group-by 'v([0-3])'", capsys, '6 of 20', 'v4_frame0')
    assert_refused("split own out --group-by '^(v)'", capsys, 'one group')


def test_masks_are_split_by_their_classes(own):
    """Every tenth image has a rare class."""
    for i in range(20):
        draw_image(own / f'images/{i:02}.jpg', seed=i)
        labels = np.zeros((48, 64), np.uint8)
        labels[:9] = 2 if i % 10 == 0 else 1
        path = own / f'masks/{i:02}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(labels).save(path)
    write_labels(own / 'classes.txt', 'ground', 'leaf', 'flower')
    assert run('split own out --val 0.25') == 0
    for name in ('training', 'validation'):
        masks = [np.asarray(Image.open(p)) for p in Path(f'out/annotations/{name}').iterdir()]
        assert sum(2 in mask for mask in masks) == 1


def test_images_with_and_without_objects_are_in_both(own):
    draw_image(own / 'train/0.jpg')
    images = [dict(id=i, file_name=f'{i}.jpg', width=64, height=48) for i in range(20)]
    for image in images:
        draw_image(own / 'train' / image['file_name'], seed=image['id'])
    box = dict(category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=0)
    write_coco(
        own / 'annotations/train.json',
        images,
        [dict(box, id=i, image_id=i) for i in range(10)],
    )
    assert run('split own out --val 0.4') == 0
    content = json.loads(Path('out/annotations/instances_val2017.json').read_text())
    assert len(content['images']) == 8 and len(content['annotations']) == 4


def test_copies_stay_together(own, capsys):
    """Five images under two names each, in any order of seeds."""
    for i in range(20):
        draw_image(own / f'images/{i:02}.jpg', seed=i % 15)
        write_labels(own / f'labels/{i:02}.txt', '0 .5 .5 .25 .25')
    write_labels(own / 'data.yaml', 'train: images', 'names: [cat]')
    for seed in range(4):
        capsys.readouterr()
        assert run(f'split own ready{seed} --val 0.3 --seed {seed}') == 0
        assert '5 images are copies' in capsys.readouterr().err
        contents = [
            {path.read_bytes() for path in Path(f'ready{seed}/{split}2017').iterdir()}
            for split in ('train', 'val')
        ]
        assert not contents[0] & contents[1] and len(contents[0] | contents[1]) == 15
        assert 5 <= len(list(Path(f'ready{seed}/val2017').iterdir())) <= 7


def test_copies_are_found_in_one_order(tmp_path):
    """That of sets of paths differs between processes, and a split by one seed with it."""
    paths = [tmp_path / f'{i}{copy}.png' for i in range(9) for copy in 'ab']
    for path in paths:
        path.write_bytes(path.stem[:1].encode())
    images = [AnnotatedImage(path, path.name, 1, 1, []) for path in paths]
    found = find_copies(images)
    assert found == [set(paths[i : i + 2]) for i in range(0, 18, 2)]
