"""Exported backbones in `effvim benchmark backbone`."""

import itertools

import pytest
import torch

from effvim.benchmark import backbones
from effvim.benchmark.cases import Case
from effvim.config.runtime import RUNTIMES
from effvim.console import quiet
from tests.helpers.benchmark_runs import run
from tests.helpers.networks import randomised

with quiet():
    from effvim.benchmark import runtimes, timing

pytestmark = pytest.mark.usefixtures('short_benchmarks')


@pytest.mark.parametrize('form', RUNTIMES)
@pytest.mark.parametrize('name', ['m1', 'efficientvim_m1'])
def test_exported_networks_compute_the_same(name, form, monkeypatch):
    pytest.importorskip(form)
    case = Case(name, form, 'float32', 'forward', 1, 64, 96)
    network = randomised(backbones.set_mode(backbones.build(name), 'forward'))
    torch.manual_seed(1)
    with torch.no_grad():
        expected = network(torch.randn(1, 3, 64, 96))
    monkeypatch.setattr(timing, 'seconds_sampler', lambda run: run)
    _, start = runtimes.prepare(network, case)
    torch.manual_seed(1)
    run, about = start(case)
    found = list(run().values())
    assert len(found) == len(expected) >= 3
    for a, b in zip(expected, found):
        assert (a - torch.from_numpy(b)).norm() <= 1e-3 * a.norm()
    assert about['macs'] > 0 and about['first_s'] > 0


def test_exported_backbones(tmp_path):
    for form in RUNTIMES:
        pytest.importorskip(form)
    results, text = run(
        tmp_path,
        'backbone',
        *[f'm1:{form}' for form in RUNTIMES],
        *('--sizes', '64', '--dtypes', 'float32', 'int8', '--rounds', '1'),
    )
    assert not results['failed']
    measured = {(case['form'], case['dtype']) for case in results['cases']}
    assert measured == set(itertools.product(RUNTIMES, ('float32', 'int8')))
    assert '**m1:openvino**' in text and 'int8' in text
