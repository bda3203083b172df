"""Short benchmarks, and the results of one."""

import pytest

from effvim.console import quiet
from tests.helpers.benchmark_runs import run

with quiet():
    from effvim.benchmark import timing


@pytest.fixture(scope='module')
def short_benchmarks():
    """One call a round is enough to check the results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, 'MIN_RUN_TIME', 0)
        patch.setattr(timing, 'MATRIX_SIDE', 64)
        yield


@pytest.fixture(scope='module')
def backbone_run(short_benchmarks, tmp_path_factory):
    """Results, tables and directory of a run over forms, sizes, modes and types."""
    folder = tmp_path_factory.mktemp('b')
    results, text = run(
        folder,
        'backbone',
        'm1',
        'efficientvim_m1',
        'starnet_s1',
        '--forms',
        'plain',
        'fused+channels-last',
        '--sizes',
        '32',
        '64x96',
        '--modes',
        'forward',
        'train',
        '--dtypes',
        'float32',
        'bfloat16',
        '--rounds',
        '3',
        '--seconds',
        '600',
        '--batch',
        '2',
        '--baseline',
        'efficientvim_m1:plain',
    )
    return results, text, folder


@pytest.fixture(scope='module')
def generated():
    """A generated ground truth and predictions for it."""
    from effvim.benchmark import evaluation

    return evaluation.generate(images=20, detections=12)
