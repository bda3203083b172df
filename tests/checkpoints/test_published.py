"""The index of published weights against what is written elsewhere of them."""

import pytest

from backbone import ARCHS, UserError
from effvim.benchmark.published import TOP1
from effvim.checkpoints import published
from effvim.config.headers import read_header
from effvim.config.packaged import config_path, is_packaged
from tests.helpers.paths import ROOT

INDEX = published.index()


def test_every_published_file_is_there():
    """Twelve backbones, averaged and raw, and three dense models."""
    backbones = {
        f'efficientvim_{arch}_{kind}' for arch in ARCHS for kind in ('e300', 'e450', 'dist')
    }
    dense = {f'{task}_effvim_m4' for task in ('retinanet', 'mask_rcnn', 'semfpn')}
    assert INDEX.keys() == backbones | {f'{name}_raw' for name in backbones} | dense
    assert len({(w.source, w.location) for w in INDEX.values()}) == len(INDEX) == 27
    assert len({w.file for w in INDEX.values()}) == len(INDEX)


@pytest.mark.parametrize('weights', INDEX.values(), ids=lambda w: w.name)
def test_an_entry(weights):
    assert weights.ema is (False if weights.name.endswith('_raw') else None)
    if weights.config:
        header = read_header(ROOT / f'configs/{weights.config}.py')
        assert header.score.startswith(f'{weights.score} on ')
    elif weights.source == 'hub':
        _, arch, kind = weights.name.split('_')
        assert weights.score == f'top-1 {TOP1[arch][("e300", "e450", "dist").index(kind)]}'
        assert weights.location.startswith(f'timm/efficientvim_{arch}')
        assert weights.file == f'{weights.location.removeprefix("timm/")}.safetensors'
        assert kind in weights.location
    else:
        assert weights.score is None  # the published top-1 is that of the averaged weights


def test_names():
    assert published.find('effvim://semfpn_effvim_m4') is published.find('semfpn_effvim_m4')
    with pytest.raises(UserError, match='did you mean efficientvim_m1_e450'):
        published.find('efficientvim_m1_e45')
    with pytest.raises(UserError, match='published are those of retinanet_effvim_m4, mask_rcnn'):
        published.of_config('retinanet_effvim_m2')
    for weights in INDEX.values():
        assert weights.config is None or is_packaged(weights.config)


def test_what_a_packaged_name_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_packaged('gallery/atss_effvim_m1')
    assert not is_packaged('retinanet_effvim_m4.py') and not is_packaged('retinanet_effvim_m9')
    assert not is_packaged(config_path('retinanet_effvim_m4').removesuffix('.py'))
    (tmp_path / 'retinanet_effvim_m4').mkdir()  # one's own
    assert not is_packaged('retinanet_effvim_m4')
    assert config_path('retinanet_effvim_m4').endswith('retinanet_effvim_m4.py')
