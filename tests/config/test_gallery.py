"""Every file in configs/gallery/: one training step, one evaluation."""

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.small_runner import backward_once, evaluate_once, small_runner

FOLDER = ROOT / 'configs/gallery'
GALLERY = sorted(FOLDER.glob('*.py'))


def test_as_many_as_there_should_be():
    kinds = [path.read_text().count('semfpn_effvim') > 0 for path in GALLERY]
    assert kinds.count(False) >= 6 and kinds.count(True) >= 4


@pytest.mark.parametrize('path', [*GALLERY, ROOT / 'docs/gallery.md'], ids=lambda p: p.stem)
def test_builds_steps_and_evaluates(path, roots, tmp_path):
    if path.suffix == '.md':  # the config that it shows
        text = path.read_text().split('```python\n')[1].split('```')[0]
        path = tmp_path / 'own.py'
        path.write_text(text.replace('..', str(FOLDER.parent)))
    runner = small_runner(path, roots, tmp_path / 'run')
    runner.model.init_weights()  # Deformable DETR's level embedding is uninitialised before
    backward_once(runner)
    evaluate_once(runner)
