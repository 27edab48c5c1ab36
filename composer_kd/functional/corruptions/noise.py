"""Gaussian, shot and impulse noise. Images are float32 [B, C, H, W] from 0 to 1, and so are theirs."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor

from composer_kd.functional.corruptions.draws import Draws

__all__ = ['gaussian_noise', 'impulse_noise', 'shot_noise']

# Below it, severities of less than a quarter, tables of the counts would be large; the published one begins at 1/500.
_FINEST = 1 / 2000


def gaussian_noise(images: Tensor, draws: Draws, scale: float) -> Tensor:
    """A normal number of standard deviation ``scale`` on every value."""
    return images + draws.normal(0, *images.shape[1:]) * scale


def shot_noise(images: Tensor, draws: Draws, variance: float) -> Tensor:
    """Photons counted: a value v becomes ``Poisson(v / variance) * variance``."""
    levels, drawn = (images * 255).round(), draws.uniform(0, *images.shape[1:])
    if variance < _FINEST:
        return (_many_photons(levels.to(torch.float64) / (255 * variance), drawn) * variance).to(images.dtype)
    line, length = _poisson_tables(variance, images.device)
    place = torch.searchsorted(line, levels.to(torch.float64) + drawn)
    return ((place - levels.to(torch.int64) * length) * variance).to(images.dtype)


def _many_photons(means: Tensor, drawn: Tensor) -> Tensor:
    """Poisson counts by the normal quantile and its skewness: beside exact ones, a photon of thousands off."""
    z = torch.special.ndtri(drawn)
    return (means + means.sqrt() * z + (z * z - 1) / 6).round().clamp_(min=0).masked_fill_(means == 0, 0)


@lru_cache(maxsize=8)
def _poisson_tables(variance: float, device: torch.device) -> tuple[Tensor, int]:
    """The distribution functions of the 256 levels as one sorted line, that of level l raised by l; and their length.

    The place in the line of l plus a uniform number is a count of level l, from the start of its table. Computed on the
    host, so that every device looks up the same bits, and kept a device.
    """
    means = torch.arange(256, dtype=torch.float64).div(255 * variance).view(-1, 1)
    largest = 1 / variance
    counts = torch.arange(ceil(largest + 8 * sqrt(largest) + 16), dtype=torch.float64)
    logs = torch.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    cumulative = logs.exp().cumsum(1).clamp_(max=1)
    cumulative[:, -1] = 1
    return (cumulative + torch.arange(256).view(-1, 1)).view(-1).to(device), len(counts)


def impulse_noise(images: Tensor, draws: Draws, share: float) -> Tensor:
    """That share of all values is 0 or 1, either as often."""
    drawn = draws.uniform(0, *images.shape[1:])
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill_(drawn > 1 - share / 2, 1.0)
