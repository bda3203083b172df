"""Networks that several tests compare."""

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
