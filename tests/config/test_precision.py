"""The type that mixed precision computes in."""

import pytest
import torch

from effvim.config.precision import amp_available, amp_dtype, amp_is_faster


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
    ('about', 'faster'),
    [
        (dict(cpu_name='Intel Xeon Platinum 8481C', amx_bf16=True), True),
        (dict(cpu_name='Intel Xeon', amx_bf16=False), False),
        (dict(cpu_name='AMD EPYC 9R14', amx_bf16=False), True),
        ({}, True),  # of another architecture
        (None, True),  # a PyTorch that cannot say
    ],
    ids=str,
)
@pytest.mark.parametrize('has', [True, False])
def test_where_bfloat16_is_faster_on_a_cpu(has, about, faster, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: has)
    if about is None:
        monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    else:
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: about, raising=False)
    assert amp_available() == has
    assert amp_is_faster() == (has and faster)
