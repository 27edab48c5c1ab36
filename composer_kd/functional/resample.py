"""Bilinear sampling of uint8 images in integers, so that every device computes the same pixels, bit for bit.

Places are integers, ``2**PLACE_BITS`` to the distance of two pixels; 0 is the centre of the first pixel. Two weights of
11 bits and a pixel of 8 fit into an int32; against exact weights a pixel is off by an eighth of a grey level at most,
before the one rounding at the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['PLACE_BITS', 'resample', 'warp']

PLACE_BITS = 11

_ONE = 1 << PLACE_BITS
_HALF_OF_BOTH = 1 << (2 * PLACE_BITS - 1)
_MATRIX_BITS = 16


def resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Image b at the places ``rows[b]`` x ``columns[b]``: crops, stretches and mirrors, nothing that turns.

    Args:
        images: uint8 of shape [B, C, H, W].
        rows: Places, integers of shape [B, h], from 0 to that of the last row.
        columns: Places, integers of shape [B, w], likewise.

    Returns:
        uint8 of shape [B, C, h, w], rounded half up.
    """
    batch, channels, height, width = images.shape
    high, wide = rows.shape[1], columns.shape[1]
    # One axis after the other, each as a gather of whole lines of memory: four times as fast as one of single pixels.
    across = _lines(images.permute(0, 3, 1, 2).reshape(batch, width, channels * height), columns)
    down = across.view(batch, wide, channels, height).permute(0, 3, 2, 1).reshape(batch, height, channels * wide)
    lines = _lines(down, rows).add_(_HALF_OF_BOTH).bitwise_right_shift_(2 * PLACE_BITS).to(torch.uint8)
    return lines.view(batch, high, channels, wide).transpose(1, 2).contiguous()


def _lines(source: Tensor, places: Tensor) -> Tensor:
    """Weighted sums, times ``2**PLACE_BITS``, of the two lines of ``source`` [B, L, N] beside each place [B, l]."""
    batch, length, size = source.shape
    first = places >> PLACE_BITS
    # At the last line the second has no weight, and must only be somewhere.
    pair = torch.stack([first, (first + 1).clamp_(max=length - 1)])
    index = pair + torch.arange(batch, device=source.device).view(batch, 1) * length
    both = source.reshape(-1, size).index_select(0, index.view(-1)).to(torch.int32).view(2, *places.shape, size)
    return _between(both[0], both[1], (places & (_ONE - 1)).to(torch.int32).unsqueeze(-1))


def _between(before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    return after.sub(before).mul_(weight).add_(before, alpha=_ONE)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Affine maps of images; what comes from outside is 0, and pixels at the edge are blended with it.

    Args:
        images: uint8 of shape [B, C, H, W].
        matrices: float64 of shape [B, 2, 3]: where an output pixel at (x, y, 1) comes from, x to the right and y down
            from the image's centre, in pixels.

    Returns:
        uint8 of the same shape, rounded half up.
    """
    batch, channels, height, width = images.shape
    fixed = (matrices * 2.0**_MATRIX_BITS + 0.5).floor().to(torch.int32).view(batch, 6, 1, 1)
    # Twice the distances from the centre are whole numbers.
    x = 2 * torch.arange(width, device=images.device, dtype=torch.int32) + (1 - width)
    y = 2 * torch.arange(height, device=images.device, dtype=torch.int32).unsqueeze(1) + (1 - height)
    bordered = F.pad(images, [1] * 4)
    high, wide = bordered.shape[2:]
    columns = _places(fixed[:, 0] * x + fixed[:, 1] * y + 2 * fixed[:, 2], wide)
    rows = _places(fixed[:, 3] * x + fixed[:, 4] * y + 2 * fixed[:, 5], high)

    column, row = columns >> PLACE_BITS, rows >> PLACE_BITS
    right = ((column + 1).clamp_(max=wide - 1) - column).unsqueeze(1)
    below = (((row + 1).clamp_(max=high - 1) - row) * wide).unsqueeze(1)
    planes = (torch.arange(batch * channels, device=images.device) * (high * wide)).view(batch, channels, 1, 1)
    corner = planes + (row * wide + column).unsqueeze(1)

    def pixels(index: Tensor) -> Tensor:
        return bordered.view(-1).index_select(0, index.view(-1)).view_as(images).to(torch.int32)

    across, down = ((places & (_ONE - 1)).unsqueeze(1) for places in (columns, rows))
    upper = _between(pixels(corner), pixels(corner + right), across)
    lower = _between(pixels(corner + below), pixels(corner + below + right), across)
    return _between(upper, lower, down).add_(_HALF_OF_BOTH).bitwise_right_shift_(2 * PLACE_BITS).to(torch.uint8)


def _places(twice: Tensor, size: int) -> Tensor:
    """From twice the distance to the centre, in ``2**-_MATRIX_BITS``, to the place in a bordered line of ``size``."""
    drop = _MATRIX_BITS + 1 - PLACE_BITS
    centred = (twice + (1 << (drop - 1))) >> drop
    return (centred + (size - 1) * (_ONE // 2)).clamp_(0, (size - 1) * _ONE)
