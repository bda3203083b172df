"""A long run holds no more memory, files and disk at its end than early on."""

import contextlib
import re
import sys

import numpy as np
import pytest

from effvim.datasets import synthetic
from tests.helpers.paths import ROOT
from tests.helpers.tool_process import MIB, Tool, memory

EPOCHS, BATCHES, KEPT = 8, 250, 2
WARM = 500  # iterations until caches and pools have their size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_two_thousand_iterations(tmp_path):
    root = synthetic.draw_coco(tmp_path / 'coco', num_train=2 * BATCHES, num_val=20, size=64)
    work = tmp_path / 'run'
    samples, disk = [], []
    with Tool(
        'train',
        ROOT / 'configs/retinanet_effvim_m1.py',
        '--from-scratch',
        '--data-root',
        root,
        '--work-dir',
        work,
        '--cfg-options',
        'train_dataloader.batch_size=2',
        'train_dataloader.num_workers=1',
        'val_dataloader.num_workers=1',
        'train_dataloader.dataset.filter_cfg.filter_empty_gt=False',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        f'train_cfg.max_epochs={EPOCHS}',
        f'default_hooks.checkpoint.max_keep_ckpts={KEPT}',
        'default_hooks.logger.interval=25',
    ) as tool:
        for line in tool.lines():
            place = re.match(rf'epoch (\d)/{EPOCHS}  (\d+)/{BATCHES} ', line)
            if not place:
                continue
            done = (int(place[1]) - 1) * BATCHES + int(place[2])
            held = sum(memory(number)[1] for number in (tool.process.pid, *tool.workers()))
            samples.append((done, held, tool.open_files()))
            with contextlib.suppress(FileNotFoundError):  # just renamed, or gone
                disk.append(sum(path.stat().st_size for path in work.rglob('*') if path.is_file()))
        assert tool.process.wait() == 0, tool.output
    assert samples[-1][0] == EPOCHS * BATCHES and len(samples) == EPOCHS * BATCHES // 25
    done, held, files = np.array([sample for sample in samples if sample[0] > WARM]).T
    slope = np.polyfit(done, held, 1)[0] * 1000
    checkpoints = [path.stat().st_size for path in work.glob('*.pth')]
    print(
        f'memory {held[0]:.0f} to {held[-1]:.0f} MiB, {slope:+.2f} MiB in 1000 iterations; open '
        f'files {files.min():.0f} to {files.max():.0f}; disk at most {max(disk) / MIB:.0f} MiB, '
        f'a checkpoint {checkpoints[0] / MIB:.0f}'
    )
    assert slope < 10
    # more or less with the batches that are on their way from the workers
    assert files[-20:].max() <= files[:20].max() + 2
    assert len(checkpoints) == KEPT
    # an old one goes when the new one is there
    assert max(disk) < (KEPT + 1) * max(checkpoints) + 20 * MIB
