"""Weighted sums of shifted images: the blurs, one shift after the other.

A convolution out of a library rounds its sums in an order that depends on the batch. Here every pixel is added up in
the same order, so that a sample is the same, bit for bit, in any company.
"""

from __future__ import annotations

from math import exp

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['gaussian', 'gaussian_weights', 'moved', 'shifted_sum', 'stretched']

# Taps of a one-sided Gaussian below this part of the largest one are left out: a twelfth of a grey level together.
_FAINT = 3e-4


def gaussian_weights(sigma: float, radius: int) -> list[float]:
    """A Gaussian at the integers from ``-radius`` to ``radius``, of sum 1."""
    if sigma <= 0:
        return [float(place == 0) for place in range(-radius, radius + 1)]
    weights = [exp(-place * place / (2 * sigma * sigma)) for place in range(-radius, radius + 1)]
    return [weight / sum(weights) for weight in weights]


def gaussian(images: Tensor, sigma: float, truncate: float = 4.0, mode: str = 'replicate') -> Tensor:
    """Blur [B, C, H, W] by a Gaussian that ends after ``truncate`` standard deviations, one axis after the other."""
    radius = int(truncate * sigma + 0.5)
    weights = gaussian_weights(sigma, radius)
    for axis in (2, 3):
        if mode == 'symmetric':
            padded = _symmetric(images, axis, radius)
        else:
            padded = F.pad(images, [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0], mode=mode)
        size = images.shape[axis]
        images = padded.narrow(axis, 0, size) * weights[0]
        for tap in range(1, len(weights)):
            images = images + padded.narrow(axis, tap, size) * weights[tap]
    return images


def _symmetric(images: Tensor, axis: int, radius: int) -> Tensor:
    """Mirrored about its edges, the edge pixel twice, as often as the radius asks."""
    size = images.shape[axis]
    places = torch.arange(-radius, size + radius, device=images.device) % (2 * size)
    return images.index_select(axis, torch.where(places < size, places, 2 * size - 1 - places))


def shifted_sum(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlate [B, C, H, W] with a small square kernel of odd size; at the border the image is mirrored."""
    radius = len(kernel) // 2
    height, width = images.shape[2:]
    padded = F.pad(images, [radius] * 4, mode='reflect')
    total = torch.zeros_like(images)
    for row, column in kernel.nonzero().tolist():
        total += padded[:, :, row : row + height, column : column + width] * float(kernel[row, column])
    return total


def moved(images: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Motion blur: half a Gaussian along a line from each pixel, to the nearest pixels, as ImageMagick draws it.

    Args:
        images: [B, C, H, W].
        radius: The line has ``2 * radius + 1`` pixels.
        sigma: Of the Gaussian, in pixels.
        degrees: The direction of each image, float64 of shape [B].
    """
    batch, channels, height, width = images.shape
    weights = [exp(-step * step / (2 * sigma * sigma)) for step in range(int(2 * radius) + 1)]
    weights = [weight for weight in weights if weight >= _FAINT]
    weights = [weight / sum(weights) for weight in weights]
    far = len(weights) - 1
    padded = F.pad(images, [far] * 4, mode='replicate')
    wide = padded.shape[3]
    flat = padded.reshape(batch, channels, -1)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    places = (rows + far) * wide + torch.arange(width, device=images.device) + far
    angles = torch.deg2rad(degrees)
    total = images.new_zeros(batch, channels, height * width)
    for step, weight in enumerate(weights):
        down, right = ((step * part - 0.5).ceil().to(torch.int64) for part in (angles.sin(), angles.cos()))
        index = places.view(1, 1, -1) + (down * wide + right).view(-1, 1, 1)
        total += flat.gather(2, index.expand(-1, channels, -1)) * weight
    return total.view_as(images)


def stretched(images: Tensor, size: int, cropped: int, grown: int) -> Tensor:
    """The middle ``cropped`` pixels of the last axis stretched linearly to ``grown``, and ``size`` of those kept."""
    places = torch.arange(size, dtype=torch.float64, device=images.device) + (grown - size) // 2
    places = places * ((cropped - 1) / max(1, grown - 1)) + (images.shape[-1] - cropped) // 2
    first = places.floor().clamp_(0, images.shape[-1] - 1)
    weights = (places - first).to(images.dtype)
    first = first.to(torch.int64)
    before, after = (images.index_select(-1, rows) for rows in (first, (first + 1).clamp_(max=images.shape[-1] - 1)))
    return before + (after - before) * weights
