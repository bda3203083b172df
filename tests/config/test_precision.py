"""The type that mixed precision computes in."""

import pytest
import torch

from effvim.config.precision import amp_dtype


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
