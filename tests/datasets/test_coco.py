"""An annotation file is parsed once in a run, and does not stay in memory."""

import json
import os

import pytest

from effvim.datasets import coco, synthetic
from tests.helpers.cli import prepared_training


@pytest.fixture
def parsed(monkeypatch):
    """Sizes of the files that are parsed."""
    sizes = []
    loads = json.loads

    def counted(text, **options):
        sizes.append(len(text))
        return loads(text, **options)

    monkeypatch.setattr(coco.json, 'loads', counted)
    return sizes


@pytest.fixture
def root(tmp_path):
    return synthetic.draw_coco(tmp_path / 'coco', num_train=3, num_val=2, size=64)


def test_kept_content_is_handed_over_once(root, parsed):
    path = root / 'annotations/instances_train2017.json'
    content = coco.read_annotations(path, root, keep=True)
    assert coco.read_annotations(path, root) is content and len(parsed) == 1
    assert coco.read_annotations(path, root) == content and len(parsed) == 2
    assert not coco._kept


def test_a_changed_file_is_parsed_again(root, parsed):
    path = root / 'annotations/instances_train2017.json'
    content = coco.read_annotations(path, root, keep=True)
    os.utime(path, (1, 1))
    assert coco.read_annotations(path, root) is not content and len(parsed) == 2


def test_training_on_own_data_parses_each_file_once(root, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ['retinanet_effvim_m1', '--data', str(root), '--from-scratch', '--work-dir', 'run']
    prepared_training(argv)
    files = [root / f'annotations/instances_{split}2017.json' for split in ('train', 'val')]
    assert [parsed.count(file.stat().st_size) for file in files] == [1, 1]
    assert not coco._kept
