"""Large datasets, in a directory that is removed afterwards, unlike pytest's own."""

import tempfile
from pathlib import Path

import pytest

from tests.helpers import generated_coco


@pytest.fixture(scope='module')
def scratch():
    """A temporary directory."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


@pytest.fixture(scope='module')
def coco_size(scratch):
    """A dataset as large as COCO."""
    generated_coco.as_large_as_coco(scratch / 'coco')
    size = (scratch / 'coco/annotations/instances_train2017.json').stat().st_size
    assert 400e6 < size < 500e6  # COCO's has 449 MB
    return scratch / 'coco'
