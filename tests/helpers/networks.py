"""Networks that several tests compare."""

from collections.abc import Iterable

import torch


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter and statistic off its initial value, so that no difference can hide."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith('running_var'):
                value.copy_(0.5 + noise)
            elif name.startswith(('weights', 'norm.', 'heads')):  # the classifier's
                value.add_(noise - 0.5)
            elif name.endswith('alpha'):
                value.copy_(4 * noise - 2)
            elif name.endswith(('norm.weight', '.D')):
                value.copy_(0.5 + noise)
            elif name.endswith(('running_mean', 'norm.bias')):
                value.copy_(noise - 0.5)
    return network


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two tensors of the same shape, relative to the largest value of `b`."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


def gradients(network: torch.nn.Module, maps: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by parameter of a loss that weighs every output differently."""
    network.zero_grad()
    generator = torch.Generator().manual_seed(2)
    losses = []
    for output in maps:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        losses.append((output.double() * weights).sum() / output.numel())
    sum(losses).backward()
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
