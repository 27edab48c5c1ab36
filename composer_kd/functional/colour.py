"""Brightness, contrast, saturation and hue of uint8 images, a factor a sample, and colour jitter that can be replayed.

The operations are torchvision's, in integers: every device computes the same pixels, bit for bit. They are rounded half
up where torchvision cuts off, so the two differ by one grey level at most (by two where a luma is a whole number, one
colour in ten thousand, and float32 puts it just below).
"""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.counter import uniform

__all__ = [
    'COLOUR_JITTER_VERSION',
    'adjust_brightness',
    'adjust_contrast',
    'adjust_hue',
    'adjust_saturation',
    'blend',
    'colour_jitter',
    'to_grey',
]

# As AUGMENT_VERSION: in the hash and in every archive, raised by whoever changes what a key looks like.
COLOUR_JITTER_VERSION = 1

# Tells this family's draws from those of others. A draw has a number for ever; a new one takes the next.
_FAMILY = 2
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)

# A factor up to 16, a pixel and a mean with its fraction fit into an int32 together.
_FACTOR_BITS, _MEAN_BITS = 12, 7
_ONE = 1 << _FACTOR_BITS


def colour_jitter(
    images: Tensor,
    ids: Tensor,
    views: Tensor | int,
    seed: int,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, drawn from a hash of (seed, id, view).

    Factors are uniform from ``max(0, 1 - x)`` to ``1 + x``, the turn of the hue from ``-hue`` to ``hue``. They are
    applied in this order, while torchvision's ColorJitter draws one. Images of one channel have no saturation and hue.

    Args:
        images: uint8 of shape [B, C, H, W].
        ids: The sample ids, integers of shape [B].
        views: The views, integers of shape [B] or one for all. A negative view is the image as it is stored.
        seed: Names the whole family of views.
        brightness: How far the factor of all pixels is from 1.
        contrast: How far the factor of the distances from the mean grey is from 1.
        saturation: How far the factor of the distances from each pixel's grey is from 1.
        hue: How far hues turn, as a part of the circle; at most 0.5.

    Returns:
        uint8 of the same shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f'colour_jitter takes uint8 images [B, C, H, W], got {images.dtype} of {tuple(images.shape)}')
    ids, views = ids.to(images.device), torch.as_tensor(views, device=images.device)

    def drawn(number: int, low: float, high: float, neutral: float) -> Tensor:
        between = uniform(_FAMILY, COLOUR_JITTER_VERSION, seed, ids, views, number) * (high - low) + low
        return between.masked_fill(views < 0, neutral)

    if brightness:
        images = adjust_brightness(images, drawn(_BRIGHTNESS, max(0.0, 1 - brightness), 1 + brightness, 1))
    if contrast:
        images = adjust_contrast(images, drawn(_CONTRAST, max(0.0, 1 - contrast), 1 + contrast, 1))
    if saturation and images.shape[1] == 3:
        images = adjust_saturation(images, drawn(_SATURATION, max(0.0, 1 - saturation), 1 + saturation, 1))
    if hue and images.shape[1] == 3:
        images = adjust_hue(images, drawn(_HUE, -hue, hue, 0))
    return images


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Every pixel times its sample's factor, from 0 to 16."""
    return blend(images, torch.zeros((), dtype=torch.int32, device=images.device), factors)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Towards the mean grey of the image (factor 0) or away from it (factors above 1)."""
    size = images.shape[2] * images.shape[3]
    grey = to_grey(images).to(torch.int32)
    # Of a grey image with any number of channels it is the mean of all.
    total, count = grey.sum((1, 2, 3)), size * grey.shape[1]
    mean = torch.div(total * (2 << _MEAN_BITS) + count, 2 * count, rounding_mode='floor').to(torch.int32)
    return blend(images, mean.view(-1, 1, 1, 1), factors, _MEAN_BITS)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Towards each pixel's grey (factor 0) or away from it (factors above 1)."""
    return blend(images, to_grey(images).to(torch.int32), factors) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn every hue by a part of the circle, from -0.5 to 0.5.

    With M and m a pixel's largest and smallest channel, its hue is a place on a circle of six sectors, k + n / (M - m)
    with integers k and n. Everything is multiplied by M - m, and no division is left.
    """
    if images.shape[1] != 3:
        return images
    pixels = images.to(torch.int32)
    red, green, blue = pixels.unbind(1)
    largest = pixels.amax(1)
    spread = largest - pixels.amin(1)
    place = torch.where(
        largest == red,
        green - blue,
        torch.where(largest == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    sector = spread << _FACTOR_BITS
    turned = (place << _FACTOR_BITS) + spread * _fixed(6 * turns).view(-1, 1, 1)
    turned = turned + 6 * sector * ((turned < 0).to(torch.int32) - (turned >= 6 * sector).to(torch.int32))
    # Around the circle a channel is two sectors at its largest, one falling, two at its smallest, one rising.
    sector, turned = sector.unsqueeze(1), turned.unsqueeze(1)
    behind = turned + sector * torch.tensor([5, 3, 1], dtype=torch.int32, device=images.device).view(3, 1, 1)
    behind = behind - 6 * sector * (behind >= 6 * sector)
    below = behind.minimum(4 * sector - behind).clamp_(min=0).minimum(sector)
    return _rounded((largest << _FACTOR_BITS).unsqueeze(1) - below, _FACTOR_BITS)


def blend(images: Tensor, other: Tensor, factors: Tensor, other_bits: int = 0) -> Tensor:
    """``factor * image + (1 - factor) * other``, rounded half up and cut to 0 and 255.

    Args:
        images: uint8 of shape [B, C, H, W].
        other: int32 that broadcasts with them.
        factors: float64 of shape [B], from 0 to 16.
        other_bits: How many of the bits of ``other`` are a fraction; at most 7.
    """
    weights = _fixed(factors).view(-1, 1, 1, 1)
    mixed = images.to(torch.int32) * (weights << other_bits) + other * (_ONE - weights)
    return _rounded(mixed, _FACTOR_BITS + other_bits)


def to_grey(images: Tensor) -> Tensor:
    """Torchvision's luma of three channels, uint8 of shape [B, 1, H, W]; other images as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.to(torch.int32).split(1, dim=1)
    # 0.2989, 0.587 and 0.114, cut off. In 23 bits, rounded up, the sum of the weights errs by less than the 0.0001 that
    # lie between one grey and the next, so that whole numbers stay.
    return ((red * 2507355 + green * 4924113 + blue * 956302) >> 23).to(torch.uint8)


def _fixed(factors: Tensor) -> Tensor:
    return (factors * float(_ONE) + 0.5).floor().to(torch.int32)


def _rounded(fixed: Tensor, bits: int) -> Tensor:
    return ((fixed + (1 << (bits - 1))) >> bits).clamp_(0, 255).to(torch.uint8)
