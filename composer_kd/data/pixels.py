"""One image out of whatever a shard holds: uint8 of shape [C, H, W], channels first, 1 or 3 of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ['as_image', 'resize']


def as_image(value: Any) -> NDArray[np.uint8]:
    """A PIL image, or an array [H, W], [H, W, C] or [C, H, W], as uint8 [C, H, W].

    Grey stays one channel; palettes, alpha and the rest become RGB. Raises ``ValueError`` for what is not an image.
    """
    if hasattr(value, 'convert'):  # a PIL image, without importing PIL for arrays
        value = np.asarray(value if value.mode in ('L', 'RGB') else value.convert('RGB'))
    image = np.asarray(value)
    if image.dtype != np.uint8:
        raise ValueError(f'images are uint8, this one is {image.dtype}')
    if image.ndim == 2:
        return np.ascontiguousarray(image[None])
    if image.ndim == 3 and image.shape[2] in (1, 3):
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    if image.ndim == 3 and image.shape[0] in (1, 3):
        return np.ascontiguousarray(image)
    raise ValueError(f'an image is [H, W], [H, W, C] or [C, H, W] with 1 or 3 channels, this one is {image.shape}')


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bilinear, averaging the area where it shrinks, to ``size`` x ``size``; an image of that size is kept."""
    if image.shape[1:] == (size, size):
        return image
    from PIL import Image

    # Pillow's own integer arithmetic: the same pixels on every machine, in the cache and in the stream.
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])
