"""From a crop back to the image that it was cut out of: which pixels are seen, and where what is seen belongs."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.augment import Crop

__all__ = ['uncropped', 'visible']


def uncropped(seen: Tensor, stored: Tensor, crop: Crop, padding: int) -> Tensor:
    """``stored`` with what the crops see put where they see it; outside of the crops it stays what it is.

    The inverse of :func:`~composer_kd.functional.augment.cropped` on the pixels that both hold.

    Args:
        seen: ``[B, C, H, W]`` in the coordinates of the crops.
        stored: The same shape and type in the coordinates of the stored images.
        crop: Where the crops lie.
        padding: Width of the border that they were cut out of.
    """
    batch, channels, height, width = stored.shape
    rows = torch.arange(height, device=stored.device) + padding - crop.top[:, None]
    columns = torch.arange(width, device=stored.device) + padding - crop.left[:, None]
    inside = _inside(rows, height).unsqueeze(2) & _inside(columns, width).unsqueeze(1)
    columns = torch.where(crop.mirrored[:, None], width - 1 - columns, columns)
    place = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    index = place.view(batch, 1, -1).expand(-1, channels, -1)
    found = seen.reshape(batch, channels, -1).gather(2, index).view_as(stored)
    return torch.where(inside.unsqueeze(1), found, stored)


def visible(crop: Crop, padding: int, height: int, width: int) -> Tensor:
    """Where each crop shows its image, and not the border: bool ``[B, 1, H, W]`` in the crop's coordinates."""
    rows = torch.arange(height, device=crop.top.device) + crop.top[:, None] - padding
    column = torch.arange(width, device=crop.left.device)
    columns = torch.where(crop.mirrored[:, None], width - 1 - column, column) + crop.left[:, None] - padding
    return (_inside(rows, height).unsqueeze(2) & _inside(columns, width).unsqueeze(1)).unsqueeze(1)


def _inside(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
