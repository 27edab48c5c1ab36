"""Crop and flip that can be replayed: the key (id, view) names the augmented image, bit for bit, on every device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.functional.counter import counter_hash

__all__ = ['AUGMENT_VERSION', 'Crop', 'augment', 'coefficients', 'crop_of', 'cropped', 'normalise']

# Goes into the hash and into every archive. Whoever changes what a key looks like raises it: recordings of the old
# version are then refused instead of being matched with other pixels.
AUGMENT_VERSION = 1

_DRAW_BITS = 16


def augment(images: Tensor, ids: Tensor, views: Tensor | int, seed: int, padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop out of a zero border and random horizontal flip, drawn from a hash of (seed, id, view).

    Args:
        images: uint8 of shape [B, C, H, W].
        ids: The sample ids, integers of shape [B].
        views: The views, integers of shape [B] or one for all. A negative view is the image as it is stored.
        seed: Names the whole family of views.
        padding: Width of the border; the crop moves by up to this many pixels each way.
        flip: Mirror half of the views.

    Returns:
        uint8 of the same shape, contiguous.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f'augment takes uint8 images [B, C, H, W], got {images.dtype} of shape {tuple(images.shape)}')
    if padding == 0 and not flip:
        return images.contiguous()
    return cropped(images, crop_of(ids.to(images.device), views, seed, padding, flip), padding)


class Crop(NamedTuple):
    """Where each image's crop lies in its bordered image, and whether it is mirrored: ``[B]`` each."""

    top: Tensor
    left: Tensor
    mirrored: Tensor


def crop_of(ids: Tensor, views: Tensor | int, seed: int, padding: int, flip: bool) -> Crop:
    """What :func:`augment` draws for these keys; a negative view is the middle, not mirrored."""
    views = torch.as_tensor(views, device=ids.device)
    drawn = counter_hash(AUGMENT_VERSION, seed, ids, views)
    stored = views < 0
    top = _below(drawn, 2 * padding + 1, 0).masked_fill(stored, padding)
    left = _below(drawn, 2 * padding + 1, _DRAW_BITS).masked_fill(stored, padding)
    mirrored = ((drawn < 0) & ~stored) if flip else torch.zeros_like(stored).expand_as(drawn)
    return Crop(top, left, mirrored)


def cropped(images: Tensor, crop: Crop, padding: int) -> Tensor:
    """The crops out of a border of zeros, of images ``[B, C, H, W]`` of any type."""
    batch, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    high, wide = padded.shape[2:]
    # One gather over the flattened border image is 2.5 times as fast as advanced indexing in two dimensions, and int32
    # as far as it reaches is faster than int64.
    kind = torch.int32 if padded.numel() < 2**31 else torch.int64
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    columns = crop.left[:, None] + torch.where(crop.mirrored[:, None], width - 1 - column, column)
    planes = (torch.arange(batch * channels, device=images.device) * (high * wide)).view(batch, channels, 1, 1)
    rows = ((crop.top[:, None] + row) * wide).view(batch, 1, height, 1)
    index = (planes + rows).to(kind) + columns.to(kind).view(batch, 1, 1, width)
    return padded.view(-1).index_select(0, index.view(-1)).view_as(images)


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """``(images / 255 - mean) / std`` per channel, as one float32 multiplication and one addition.

    A division, or a fused multiply-add, rounds differently from one device to the next; these two operations do not.

    Args:
        images: uint8 of shape [B, C, H, W].
        mean: Of each channel, on the scale of 0 to 1.
        std: Of each channel, on the same scale.
        dtype: What the result is rounded to at the end.
    """
    scale, shift = coefficients(tuple(mean), tuple(std), images.device)
    return images.to(torch.float32).mul_(scale).add_(shift).to(dtype)


@lru_cache(maxsize=64)
def coefficients(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What :func:`normalise` multiplies pixels with, and what it adds.

    Kept a device, because a copy from the host in every batch would stall a GPU.
    """
    scale = torch.tensor([1 / (255 * deviation) for deviation in std], dtype=torch.float32)
    shift = torch.tensor(
        [-centre / deviation for centre, deviation in zip(mean, std, strict=True)], dtype=torch.float32
    )
    return scale.view(-1, 1, 1).to(device), shift.view(-1, 1, 1).to(device)


def _below(drawn: Tensor, limit: int, bit: int) -> Tensor:
    """An integer in [0, limit) out of 16 bits of the hash, with integer arithmetic alone."""
    return (((drawn >> bit) & ((1 << _DRAW_BITS) - 1)) * limit) >> _DRAW_BITS
