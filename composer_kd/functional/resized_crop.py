"""Random resized crops that can be replayed: the key (id, view) names the box, and the box its pixels, bit for bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from composer_kd.functional.counter import uniform
from composer_kd.functional.resample import PLACE_BITS, resample

__all__ = ['RATIO', 'RESIZED_CROP_VERSION', 'SCALE', 'crop_boxes', 'resized_crop']

# As AUGMENT_VERSION: in the hash and in every archive, raised by whoever changes what a key looks like.
RESIZED_CROP_VERSION = 1

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)

# Tells this family's draws from those of others. A draw has a number for ever; a new one takes the next.
_FAMILY = 1
_FLIP, _TOP, _LEFT = 0, 1, 2
_FIRST_AREA, _FIRST_RATIO, _ATTEMPTS = 100, 200, 10


def resized_crop(
    images: Tensor,
    ids: Tensor,
    views: Tensor | int,
    seed: int,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
    flip: bool = True,
) -> Tensor:
    """A random box of the image, stretched to the image's size, and random horizontal flip.

    The boxes are those of torchvision's RandomResizedCrop in distribution; see :func:`crop_boxes`.

    Args:
        images: uint8 of shape [B, C, H, W].
        ids: The sample ids, integers of shape [B].
        views: The views, integers of shape [B] or one for all. A negative view is the image as it is stored.
        seed: Names the whole family of views.
        scale: The smallest and the largest area of a box, as a part of the image's.
        ratio: The smallest and the largest width of a box, as a multiple of its height.
        flip: Mirror half of the views.

    Returns:
        uint8 of the same shape, contiguous.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f'resized_crop takes uint8 images [B, C, H, W], got {images.dtype} of {tuple(images.shape)}')
    height, width = images.shape[2:]
    ids, views = ids.to(images.device), torch.as_tensor(views, device=images.device)
    top, left, high, wide = crop_boxes(ids, views, seed, height, width, scale, ratio)
    rows, columns = _places(top, high, height), _places(left, wide, width)
    if flip:
        mirrored = (_drawn(seed, ids, views, _FLIP) < 0.5) & (views >= 0)
        columns = torch.where(mirrored.unsqueeze(1), columns.flip(1), columns)
    return resample(images, rows, columns)


def crop_boxes(
    ids: Tensor,
    views: Tensor,
    seed: int,
    height: int,
    width: int,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, int64 of shape [B], of each key's box; the whole image for a negative view.

    Area uniform, ratio log-uniform, position uniform. Of ten draws of area and ratio, which all have numbers of their
    own, the first whose box fits is taken; where none does, torchvision's way out: the largest box in the middle whose
    ratio is allowed.
    """
    attempts = torch.arange(_ATTEMPTS, device=ids.device).unsqueeze(1)
    area = _drawn(seed, ids, views, attempts + _FIRST_AREA) * (scale[1] - scale[0]) + scale[0]
    low, large = math.log(ratio[0]), math.log(ratio[1])
    # exp alone may end in another last bit on another device: of float64, which decides a box less than once in 1e12.
    stretch = (_drawn(seed, ids, views, attempts + _FIRST_RATIO) * (large - low) + low).exp()
    high = (area * (height * width) / stretch).sqrt().round().to(torch.int64)
    wide = (area * (height * width) * stretch).sqrt().round().to(torch.int64)
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.to(torch.uint8).argmax(0, keepdim=True)  # the first of several that are equal
    middle = ~fits.any(0)
    middle_high, middle_wide = _middle(height, width, ratio)
    stored = views < 0
    high = high.gather(0, first).squeeze(0).masked_fill(middle, middle_high).masked_fill(stored, height)
    wide = wide.gather(0, first).squeeze(0).masked_fill(middle, middle_wide).masked_fill(stored, width)
    top = (_drawn(seed, ids, views, _TOP) * (height - high + 1)).to(torch.int64)
    left = (_drawn(seed, ids, views, _LEFT) * (width - wide + 1)).to(torch.int64)
    return torch.where(middle, (height - high) // 2, top), torch.where(middle, (width - wide) // 2, left), high, wide


def _middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose ratio is allowed."""
    if width / height < ratio[0]:
        return min(height, max(1, round(width / ratio[0]))), width
    if width / height > ratio[1]:
        return height, min(width, max(1, round(height * ratio[1])))
    return height, width


def _drawn(seed: int, ids: Tensor, views: Tensor, number: int | Tensor) -> Tensor:
    return uniform(_FAMILY, RESIZED_CROP_VERSION, seed, ids, views, number)


def _places(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Where ``size`` pixels that divide a stretch of ``length`` [B] evenly are centred, within its pixels."""
    first, length = first.unsqueeze(1), length.unsqueeze(1)
    twice = (2 * torch.arange(size, device=first.device) + 1) * length - size  # 2 size times the place, in pixels
    places = torch.div((twice << PLACE_BITS) + size, 2 * size, rounding_mode='floor')
    return places.clamp_(min=0).minimum((length - 1) << PLACE_BITS) + (first << PLACE_BITS)
