"""Blurs of lens and motion. Images are float32 [B, C, H, W] from 0 to 1, and so are theirs."""

from __future__ import annotations

from collections import Counter
from math import ceil

import torch
from torch import Tensor

from composer_kd.functional.corruptions.draws import Draws
from composer_kd.functional.corruptions.sums import gaussian, gaussian_weights, moved, shifted_sum, stretched

__all__ = ['defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur', 'zoomed']


def defocus_blur(images: Tensor, draws: Draws, radius: float, alias: float) -> Tensor:
    """A disc of that radius, its edge softened by a Gaussian of three pixels."""
    size = int(radius) + 1
    # The kernel stays on the host, which reads it weight by weight; the images may be anywhere.
    places = torch.arange(-size, size + 1, dtype=torch.float64)
    disc = (places.view(-1, 1) ** 2 + places**2 <= radius**2).to(torch.float64)
    soft = torch.tensor(gaussian_weights(alias, 1), dtype=torch.float64)
    kernel = torch.zeros_like(disc)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            kernel += disc.roll((row, column), (0, 1)) * soft[row + 1] * soft[column + 1]
    return shifted_sum(images, kernel / kernel.sum())


def glass_blur(images: Tensor, draws: Draws, sigma: float, times: int) -> Tensor:
    """Pixels taken from themselves or a neighbour above and to the left, ``times`` times, between two light blurs.

    The published code means to exchange two pixels, but numpy hands it views of them: the first is overwritten and the
    second stays. Done from the lower right to the upper left, that is this gather out of the image as it was.
    """
    batch, channels, height, width = images.shape
    images = gaussian(images, sigma)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    columns = torch.arange(width, device=images.device)
    moves = (rows > 1) & (columns > 1)
    for time in range(times):
        up, left = ((draws.uniform(time, 2, height, width) < 0.5) & moves).to(torch.int64).unbind(1)
        index = ((rows - up) * width + columns - left).view(batch, 1, -1)
        images = images.flatten(2).gather(2, index.expand(-1, channels, -1)).view_as(images)
    return gaussian(images, sigma)


def motion_blur(images: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """Drawn along a line between 45 degrees upwards and downwards."""
    return moved(images, radius, sigma, draws.uniform(0, 1, low=-45, high=45)[:, 0])


def zoom_blur(images: Tensor, draws: Draws, steps: int) -> Tensor:
    """The mean of the image, once more itself, and its enlargements by 1.00, 1.01, ... in that many steps."""
    height, width = images.shape[2:]
    # Several factors crop and stretch by the same whole numbers of pixels.
    alike = Counter(
        (_cropped(height, factor), _cropped(width, factor)) for factor in (1 + step / 100 for step in range(steps))
    )
    total = images.clone()
    for (rows, columns), times in alike.items():
        total += _zoomed(images, rows, columns) * times
    return total / (steps + 1)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of the images, stretched to their size."""
    height, width = images.shape[2:]
    return images if factor == 1 else _zoomed(images, _cropped(height, factor), _cropped(width, factor))


def _cropped(size: int, factor: float) -> tuple[int, int]:
    """How many pixels are cropped, and how many they become: the published rounding."""
    cropped = ceil(round(size / factor, 9))
    return cropped, round(cropped * factor)


def _zoomed(images: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    height, width = images.shape[2:]
    across = stretched(images, width, *columns)
    return stretched(across.transpose(2, 3), height, *rows).transpose(2, 3).contiguous()
