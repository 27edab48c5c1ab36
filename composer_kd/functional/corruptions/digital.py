"""Brightness, contrast, elastic transform, pixelate and JPEG. Images are float32 [B, C, H, W] from 0 to 1."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer_kd.functional.corruptions.draws import Draws
from composer_kd.functional.corruptions.sums import gaussian

__all__ = ['brightness', 'contrast', 'displacement', 'elastic_transform', 'jpeg_compression', 'pixelate', 'to_uint8']


def brightness(images: Tensor, draws: Draws, more: float) -> Tensor:
    """The value of hue, saturation and value raised by ``more``: all channels in proportion, black becomes grey."""
    value = images.amax(1, keepdim=True)
    raised = (value + more).clamp_(max=1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-6)), raised)


def contrast(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """The distances from each channel's mean times ``factor``."""
    # Whole numbers, whose sum is exact in any order.
    levels = (images * 255).round().to(torch.int64)
    mean = (levels.sum((2, 3), keepdim=True) / (255 * images.shape[2] * images.shape[3])).to(images.dtype)
    return (images - mean) * factor + mean


def elastic_transform(images: Tensor, draws: Draws, reach: float, smooth: float, jitter: float) -> Tensor:
    """Three points of the image moved at random, and after that every pixel a little.

    Args:
        images: The images.
        draws: Their draws.
        reach: How far pixels move: the factor of the smoothed noise, as a part of the image's smaller side.
        smooth: The standard deviation that the noise is smoothed with, likewise.
        jitter: How far each of the three points moves, at most, likewise.
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=torch.float32, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=torch.float32, device=images.device).view(1, 1, -1)
    side = min(height, width)
    images = _sample(images, *_affine(draws, height, width, jitter * side, rows, columns))
    if reach == 0:
        return images
    down, right = displacement(draws, height, width, reach, smooth).unbind(1)
    return _sample(images, rows + down, columns + right)


def displacement(draws: Draws, height: int, width: int, reach: float, smooth: float) -> Tensor:
    """How far each pixel moves, down and to the right, in pixels: [B, 2, H, W]."""
    side = min(height, width)
    noise = draws.uniform(1, 2, height, width, low=-1.0).to(torch.float32)
    return gaussian(noise, smooth * side, truncate=3.0, mode='symmetric') * (reach * side)


def _affine(
    draws: Draws, height: int, width: int, jitter: float, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from when three points about the middle have moved."""
    away = min(height, width) // 3
    corners = torch.tensor([[away, away], [away, -away], [-away, -away]], dtype=torch.float64)  # x, y from the middle
    before = (corners + torch.tensor([width // 2, height // 2])).to(rows.device)
    after = before + draws.uniform(0, 3, 2, low=-jitter, high=jitter)
    # Two sides of the triangle, as they are and as they become; the inverse of the latter leads back.
    sides = torch.stack([before[0] - before[1], before[1] - before[2]], 1)
    moved = torch.stack([after[:, 0] - after[:, 1], after[:, 1] - after[:, 2]], 2)
    (a, b), (c, d) = moved[:, 0].unbind(1), moved[:, 1].unbind(1)
    inverse = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
    back = (sides.view(1, 2, 2, 1) * inverse.view(-1, 1, 2, 2)).sum(2)
    start = before[1] - (back * after[:, 1].unsqueeze(1)).sum(2)
    back, start = back.to(torch.float32), start.to(torch.float32)

    def source(axis: int) -> Tensor:
        across, down = back[:, axis].view(-1, 2, 1, 1).unbind(1)
        return columns * across + rows * down + start[:, axis].view(-1, 1, 1)

    return source(1), source(0)


def _sample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear, at places [B, H, W] in pixels; beyond the edge the image is mirrored."""
    batch, channels, height, width = images.shape
    top, left = rows.floor(), columns.floor()
    below, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    flat = images.flatten(2)

    def pixels(rows: Tensor, columns: Tensor) -> Tensor:
        index = _mirrored(rows, height) * width + _mirrored(columns, width)
        return flat.gather(2, index.view(batch, 1, -1).expand(-1, channels, -1)).view_as(images)

    upper = pixels(top, left) * (1 - right) + pixels(top, left + 1) * right
    lower = pixels(top + 1, left) * (1 - right) + pixels(top + 1, left + 1) * right
    return upper * (1 - below) + lower * below


def _mirrored(places: Tensor, size: int) -> Tensor:
    period = max(1, 2 * size - 2)
    folded = places.to(torch.int64) % period
    return torch.where(folded < size, folded, period - folded)


def pixelate(images: Tensor, draws: Draws, factor: float) -> Tensor:
    """Shrunk to ``factor`` of its sides and stretched again, both by areas."""
    from PIL import Image

    def fewer(image: Any) -> Any:
        small = image.resize(
            (max(1, int(image.width * factor)), max(1, int(image.height * factor))), Image.Resampling.BOX
        )
        return small.resize(image.size, Image.Resampling.BOX)

    return _by_pillow(images, fewer)


def jpeg_compression(images: Tensor, draws: Draws, quality: int) -> Tensor:
    """Written as JPEG of that quality and read again."""
    from PIL import Image

    def again(image: Any) -> Any:
        file = BytesIO()
        image.save(file, 'JPEG', quality=quality)
        return Image.open(file)

    return _by_pillow(images, again)


def _by_pillow(images: Tensor, change: Any) -> Tensor:
    from PIL import Image

    channels = images.shape[1]
    changed = [
        np.asarray(change(Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))))
        for image in to_uint8(images).cpu().numpy()
    ]
    stacked = torch.from_numpy(np.stack(changed)).to(images.device)
    stacked = stacked.unsqueeze(1) if channels == 1 else stacked.permute(0, 3, 1, 2)
    return stacked.to(images.dtype) / 255


def to_uint8(images: Tensor) -> Tensor:
    """Levels from 0 to 255 out of values from 0 to 1, rounded to the nearest."""
    return (images.clamp(0, 1) * 255).round_().to(torch.uint8)
