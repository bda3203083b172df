"""Work directories of version 0.1: `test`, `infer` and `export` still take their checkpoints.

tests/data/old_run holds two, of tiny networks after a few iterations: a detector that was trained
with --data-root, and a segmentor with --mini. Random states and the optimizer's are removed.
"""

import json
from pathlib import Path

import pytest

from effvim.config.legacy import RENAMED
from effvim.config.reading import load_config
from tests.helpers.cli import run_command
from tests.helpers.old_run import OLD_RUN, RUNS
from tests.helpers.runs import files


def test_a_dumped_config_has_old_names_and_is_read_with_new_ones():
    for config, _ in RUNS.values():
        text = (OLD_RUN / config).read_text()
        old = {name for name in RENAMED if f"'{name}'" in text}
        assert len(old) >= 5
        assert not old & set(json.dumps(load_config(str(OLD_RUN / config)).to_dict()).split('"'))


def test_evaluates(old_kind, old_model):
    assert run_command('test', [*old_model, '--out', 'metrics.json', '--work-dir', 'out']) == 0
    metrics = json.loads(Path('metrics.json').read_text())
    assert 0 <= metrics['coco/bbox_mAP' if old_kind == 'detector' else 'mIoU'] <= 100
    if old_kind == 'segmentor':
        assert 'IoU.ground' in metrics  # measured, but not part of the mean
        names = ('disc', 'triangle', 'cross')
        mean = sum(metrics[f'IoU.{name}'] for name in names) / len(names)
        assert metrics['mIoU'] == pytest.approx(mean, abs=0.01)


def test_predicts(old_kind, old_model):
    images = 'data/coco/val2017' if old_kind == 'detector' else 'data/mini-ade/images/validation'
    assert run_command('infer', [*old_model, images, '--out', 'predictions', '--json']) == 0
    assert len(files('predictions')) > 3


@pytest.mark.parametrize(
    'old_kind, old_model',
    [('detector', 'with config'), ('segmentor', 'without config')],
    indirect=True,
)
def test_exports(old_kind, old_model):
    """The file's own config is neither packaged nor next to it."""
    images = 'data/coco/val2017' if old_kind == 'detector' else 'data/mini-ade/images/validation'
    argv = [*old_model, '--out', 'model.onnx', '--images', images, '--work-dir', 'work']
    assert run_command('export', argv) == 0
    config = str(OLD_RUN / RUNS[old_kind][0])
    assert run_command('infer', [config, 'model.onnx', images, '--out', 'predictions']) == 0
    assert run_command('infer', ['model.onnx', images, '--out', 'without_config']) == 0
    with_config, without = (
        {name: path.read_bytes() for name, path in files(folder).items()}
        for folder in ('predictions', 'without_config')
    )
    assert with_config == without and len(without) >= 3
