"""What a net costs: multiply-adds of a forward pass, and parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from composer_kd.models.classifier import plain

__all__ = ['multiply_adds', 'parameters']


def multiply_adds(module: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-adds of convolutions and matrix products in the forward pass of one sample.

    As in the published tables, element-wise work (BatchNorm, ReLU, pooling) is not counted. One sample of zeros is
    run in evaluation mode; BatchNorm, the random generators and the module's modes are as before afterwards.

    Args:
        module: The net, wrapped in :class:`~composer_kd.models.Classifier` or not, on any device.
        shape: Shape of one sample, without the batch: ``(3, 32, 32)``.
    """
    net = plain(module)
    weight = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    sample = torch.zeros(1, *shape, device=weight.device, dtype=weight.dtype)
    devices = [weight.device] if weight.is_cuda else []
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices), _evaluating(net), torch.no_grad(), counter:
        net(sample)
    return counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """Number of parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in plain(module).parameters())


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    # Mode by mode, not `module.train(was)`: a user may have frozen a part by putting it in evaluation mode.
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
