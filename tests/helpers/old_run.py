"""Work directories that version 0.1 trained: config and checkpoint by kind."""

from tests.helpers.paths import ROOT

OLD_RUN = ROOT / 'tests/data/old_run'
RUNS = {
    'detector': ('det/tiny_det.py', 'det/epoch_1.pth'),
    'segmentor': ('seg/tiny_seg.py', 'seg/iter_8.pth'),
}
