"""Clouds: the diamond-square fractal, for a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.corruptions.draws import Draws

__all__ = ['plasma']


def plasma(draws: Draws, stream: int, height: int, width: int, decay: float) -> Tensor:
    """A height map [B, 1, H, W] between 0 and 1 that joins itself at its edges.

    Every round halves the grid: a new point is the mean of its four neighbours plus a random number, whose range is
    divided by ``decay`` squared from one round to the next. Cells draw the same numbers whatever the decay.
    """
    size = 1 << (max(height, width, 2) - 1).bit_length()
    drawn = draws.uniform(stream, size, size, low=-1.0)
    heights = torch.zeros_like(drawn)
    step, reach = size, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        right = corners.roll(-1, 2)
        middle = (corners + right + corners.roll(-1, 1) + right.roll(-1, 1)) / 4
        middle = middle + drawn[:, half::step, half::step] * reach**2
        heights[:, half::step, half::step] = middle
        upper = (corners + right + middle + middle.roll(1, 1)) / 4
        left = (corners + corners.roll(-1, 1) + middle + middle.roll(1, 2)) / 4
        heights[:, ::step, half::step] = upper + drawn[:, ::step, half::step] * reach**2
        heights[:, half::step, ::step] = left + drawn[:, half::step, ::step] * reach**2
        step, reach = half, reach / decay
    heights -= heights.amin((1, 2), keepdim=True)
    heights /= heights.amax((1, 2), keepdim=True)
    return heights[:, None, :height, :width].to(torch.float32)
