"""What a command leaves in its process."""

import gc

import pytest

from tests.helpers.cli import run_command


@pytest.mark.parametrize('argv', [('weights', ['list']), ('train', ['absent.py']), ('infer', [])])
def test_garbage_is_collected_as_before(argv, capsys):
    before = gc.get_threshold()
    run_command(*argv)
    assert gc.get_threshold() == before
