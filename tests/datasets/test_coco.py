"""An annotation file is parsed once in a run, and does not stay in memory."""

import os

from effvim.datasets import coco
from tests.helpers.cli import prepared_training


def test_kept_content_is_handed_over_once(small_coco, parsed):
    path = small_coco / 'annotations/instances_train2017.json'
    content = coco.read_annotations(path, small_coco, keep=True)
    assert coco.read_annotations(path, small_coco) is content and len(parsed) == 1
    assert coco.read_annotations(path, small_coco) == content and len(parsed) == 2
    assert not coco._kept


def test_a_changed_file_is_parsed_again(small_coco, parsed):
    path = small_coco / 'annotations/instances_train2017.json'
    content = coco.read_annotations(path, small_coco, keep=True)
    os.utime(path, (1, 1))
    assert coco.read_annotations(path, small_coco) is not content and len(parsed) == 2


def test_training_on_own_data_parses_each_file_once(small_coco, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ['retinanet_effvim_m1', '--data', str(small_coco), '--from-scratch', '--work-dir', 'run']
    prepared_training(argv)
    files = [small_coco / f'annotations/instances_{split}2017.json' for split in ('train', 'val')]
    assert [parsed.count(file.stat().st_size) for file in files] == [1, 1]
    assert not coco._kept
