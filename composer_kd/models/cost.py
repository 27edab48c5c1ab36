"""What a net costs: multiply-adds and seconds of a forward pass, and parameters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from composer_kd.models.auxiliary import is_auxiliary
from composer_kd.models.classifier import Classifier, evaluation_mode, plain, unwrapped

__all__ = ['inference_seconds', 'multiply_adds', 'parameters']

_FEWEST, _MOST = 4, 26  # Forward passes, the first of which warms up.
_ENOUGH = 1.0  # Seconds after which the fewest do.


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
    with torch.random.fork_rng(devices), evaluation_mode(net), torch.no_grad(), counter:
        net(sample)
    return counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    """Count parameters, one that is shared once, without auxiliary modules."""
    return sum(parameter.numel() for name, parameter in plain(module).named_parameters() if not is_auxiliary(name))


def inference_seconds(module: nn.Module, shape: Sequence[int], batch: int) -> float | None:
    """The median time of a forward pass of ``batch`` samples in evaluation mode, as the caller's thread would see it.

    The passes end after a second, but there are at least 3 beside the first, which warms up. Precision is that of the
    caller's autocast context; a :class:`~composer_kd.models.Classifier` adds its own and its layout, and is run
    uncompiled. Modes and random generators are as before afterwards.

    Args:
        module: The net, wrapped or not, on any device.
        shape: Shape of one sample, without the batch.
        batch: How many samples.

    Returns:
        float | None: Seconds a batch; ``None`` where the device cannot do it, for want of memory say.
    """
    net = unwrapped(module)
    weight = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    # Not zeros: hardware is faster on them. A generator of their own leaves the training's alone.
    samples = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
    # Composer puts what it compiles in the place of the model's `forward`: it would compile anew for these batches.
    forward = partial(Classifier.forward, net) if isinstance(net, Classifier) else net
    took: list[float] = []
    with torch.random.fork_rng([weight.device] if weight.is_cuda else []), evaluation_mode(net), torch.no_grad():
        try:
            samples = samples.to(weight)
            inputs: Any = (samples,) if isinstance(net, Classifier) else samples
            while len(took) < _FEWEST or (len(took) < _MOST and sum(took) < _ENOUGH):
                _wait_for(weight.device)
                begun = time.perf_counter()
                forward(inputs)
                _wait_for(weight.device)
                took.append(time.perf_counter() - begun)
        except RuntimeError:  # Too little memory has many names, and a trained run is not lost for want of a number.
            return None
    return statistics.median(took[1:])


def _wait_for(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
