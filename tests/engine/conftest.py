"""Fixtures that tests of training share."""

import pytest

from tests.helpers.training import draw_cropped


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A synthetic detection dataset of 96 × 64 pixels, see `draw_cropped`."""
    return draw_cropped(tmp_path_factory.mktemp('c') / 'coco')
