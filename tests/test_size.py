"""Data sets as large as COCO: time and memory, see docs/size.md for the figures."""

import json
import sys
import tempfile
import time
from pathlib import Path

import made_up_coco
import pytest
from conftest import ROOT
from processes import Tool, memory

RETINANET, MASK_RCNN = (
    ROOT / f'configs/{name}_effvim_m1.py' for name in ('retinanet', 'mask_rcnn'))
LINUX = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
SMALL = [
    'train_dataloader.batch_size=2', 'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
]  # fmt: skip


@pytest.fixture(scope='module')
def folder():
    """Not pytest's own, which stays."""
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


@pytest.fixture(scope='module')
def coco(folder):
    made_up_coco.as_large_as_coco(folder / 'coco')
    size = (folder / 'coco/annotations/instances_train2017.json').stat().st_size
    assert 400e6 < size < 500e6  # COCO's has 449 MB
    return folder / 'coco'


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize('config, least', [(RETINANET, 0), (MASK_RCNN, 0)], ids=['boxes', 'masks'])
def test_training_on_as_much_as_coco(config, least, coco, tmp_path):
    with Tool('train', config, '--from-scratch', '--data-root', coco, '--work-dir', tmp_path,
              '--cfg-options', *SMALL, 'train_dataloader.num_workers=2',
              'default_hooks.logger.interval=1') as tool:
        figures = {'seconds to the first iteration': tool.until('epoch 1/')}
        figures['peak'] = tool.peak()
        figures['main'] = memory(tool.process.pid)
        figures['workers'] = [memory(number) for number in tool.workers()]
        for line in tool.lines():
            if line.startswith('epoch 1/') and int(line.split()[2].split('/')[0]) >= 200:
                break
        figures['later'] = [memory(number) for number in (tool.process.pid, *tool.workers())]
    print(figures)


@pytest.mark.slow
def test_ten_thousand_pictures_are_checked_within_two_minutes(folder, tmp_path):
    """Start of the process and the measured steps included; 5,000 a minute are asked for."""
    root, size = folder / 'small', (160, 120)
    for split, pictures in (('train2017', 10_000), ('val2017', 100)):
        names = made_up_coco.write_annotations(
            root / f'annotations/instances_{split}.json', pictures, 7 * pictures, [size])
        made_up_coco.draw_pictures(root / split, names, size, seed=pictures)
    report = tmp_path / 'report.json'
    began = time.monotonic()
    with Tool('check', MASK_RCNN, '--from-scratch', '--data-root', root, '--out', report,
              '--cfg-options', *SMALL) as tool:
        lines = list(tool.lines())
        assert tool.process.wait() == 0, lines
    seconds = time.monotonic() - began
    print(f'{seconds:.1f} s')
    assert json.loads(report.read_text())['data']['training']['pictures'] == 10_000
    assert seconds < 120
