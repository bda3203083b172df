"""The type that mixed precision computes in."""

import pytest
import torch

from effvim.config import precision, presets
from effvim.config.precision import amp_available, amp_dtype, amp_is_faster
from effvim.config.reading import load_config
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    ('native', 'expected'), [(True, torch.bfloat16), (False, torch.float16)], ids=['yes', 'no']
)
def test_bfloat16_only_where_a_gpu_computes_in_it(native, expected, monkeypatch):
    """PyTorch emulates it on older ones, slower than float32."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        'is_bf16_supported',
        lambda including_emulation=True: native or including_emulation,
    )
    assert amp_dtype() == expected


@pytest.mark.parametrize(
    ('name', 'amx', 'faster'),
    [
        ('Intel(R) Xeon(R) Platinum 8481C CPU', True, True),
        ('Intel(R) Xeon(R) Processor', False, False),
        ('Intel64 Family 6 Model 143 Stepping 8, GenuineIntel', False, False),  # on Windows
        ('AMD EPYC 9R14', False, True),
    ],
)
@pytest.mark.parametrize('has', [True, False])
def test_where_bfloat16_is_faster_on_a_cpu(has, name, amx, faster, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: has)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: amx)
    monkeypatch.setattr(precision, 'processor', lambda: name)
    assert amp_available() == has
    assert amp_is_faster() == (has and faster)


@pytest.mark.parametrize('config', ['retinanet', 'semfpn'])
@pytest.mark.parametrize('faster', [True, False])
def test_mini_uses_it_where_it_is_faster(config, faster, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    monkeypatch.setattr(presets, 'amp_is_faster', lambda: faster)
    cfg = load_config(str(ROOT / f'configs/{config}_effvim_m1.py'))
    presets.apply_presets(cfg, ['mini'], draw=False)
    assert ('Amp' in cfg.optim_wrapper.get('type', '')) == faster
