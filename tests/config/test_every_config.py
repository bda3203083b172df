"""Every file in configs/: one training step, one evaluation, as published but small."""

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.small_runner import backward_once, evaluate_once, small_runner

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_one_step_of_everything(path, roots, tmp_path):
    runner = small_runner(path, roots, tmp_path)
    backward_once(runner)
    frozen = [n for n, p in runner.model.named_parameters() if not p.requires_grad]
    names = [n for n, _ in runner.model.named_parameters()]
    assert frozen == [n for n in names if n.endswith('mixer.A')]
    evaluate_once(runner)
