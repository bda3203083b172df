"""Fixtures of the detection plugin's tests."""

import pytest

from effvim.datasets import synthetic


@pytest.fixture(scope='session')
def annotations(tmp_path_factory):
    """COCO annotation file of 24 synthetic images."""
    root = synthetic.draw_coco(tmp_path_factory.mktemp('m') / 'coco', num_train=8, num_val=24)
    return root / 'annotations/instances_val2017.json'
