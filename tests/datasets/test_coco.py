"""An annotation file is parsed once in a run."""

from mmengine.config import ConfigDict

from effvim.datasets import coco
from tests.helpers.cli import prepared_training


def test_what_was_parsed_is_taken_and_not_parsed_again(small_coco, parsed):
    path = small_coco / 'annotations/instances_train2017.json'
    loader = ConfigDict(
        dataset=dict(
            data_root=str(small_coco),
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017'),
        )
    )
    classes = coco.check_all([loader])
    known = {path.resolve(): coco.read_annotations(path, small_coco)}
    assert len(parsed) == 2
    assert coco.check_all([loader], known) == classes
    assert len(parsed) == 2 and not known


def test_training_on_own_data_parses_each_file_once(small_coco, parsed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ['retinanet_effvim_m1', '--data', str(small_coco), '--from-scratch', '--work-dir', 'run']
    prepared_training(argv)
    files = [small_coco / f'annotations/instances_{split}2017.json' for split in ('train', 'val')]
    assert [parsed.count(file.stat().st_size) for file in files] == [1, 1]
