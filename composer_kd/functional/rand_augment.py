"""RandAugment that can be replayed: the key (id, view) names the operations, and they compute in integers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.functional.colour import adjust_brightness, adjust_contrast, adjust_saturation, blend
from composer_kd.functional.counter import uniform
from composer_kd.functional.resample import warp

__all__ = ['LARGEST_MAGNITUDE', 'OPERATIONS', 'RAND_AUGMENT_VERSION', 'Operation', 'chosen_operations', 'rand_augment']

# As AUGMENT_VERSION: in the hash and in every archive, raised by whoever changes what a key looks like.
RAND_AUGMENT_VERSION = 1

LARGEST_MAGNITUDE = 30

# Tells this family's draws from those of others. Round r of the operations draws numbers 2r and 2r + 1.
_FAMILY = 3


@dataclass(frozen=True)
class Operation:
    """One of the operations.

    Attributes:
        apply: uint8 images [B, C, H, W] and float64 strengths [B] to uint8 images.
        strength: Of a magnitude, from 0 to 30, on images of a height and width.
        signed: Whether half of the samples get the negative strength.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    strength: Callable[[int, int, int], float] = lambda magnitude, *size: 0.0
    signed: bool = False


def rand_augment(
    images: Tensor, ids: Tensor, views: Tensor | int, seed: int, operations: int = 2, magnitude: int = 9
) -> Tensor:
    """Random operations, one after the other, drawn with replacement from a hash of (seed, id, view).

    The fourteen operations and their magnitudes are those of torchvision's RandAugment; what it turns and shears is
    bilinear here, with black beyond the edge.

    Args:
        images: uint8 of shape [B, C, H, W].
        ids: The sample ids, integers of shape [B].
        views: The views, integers of shape [B] or one for all. A negative view is the image as it is stored.
        seed: Names the whole family of views.
        operations: How many each sample goes through.
        magnitude: Of all operations, from 0 to 30.

    Returns:
        uint8 of the same shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f'rand_augment takes uint8 images [B, C, H, W], got {images.dtype} of {tuple(images.shape)}')
    height, width = images.shape[2:]
    ids, views = ids.to(images.device), torch.as_tensor(views, device=images.device)
    chosen, signs = chosen_operations(ids, views, seed, operations)
    chosen = chosen.cpu()  # The one wait for the device: only the host can say which samples go where.
    images = images.clone()
    for one_each, sign in zip(chosen, signs, strict=True):
        for number, operation in enumerate(OPERATIONS.values()):
            rows = (one_each == number).nonzero().squeeze(1).to(images.device, non_blocking=True)
            if number == 0 or not len(rows):
                continue  # The first is Identity.
            strengths = torch.full_like(sign, operation.strength(magnitude, height, width)).index_select(0, rows)
            if operation.signed:
                strengths = strengths * sign.index_select(0, rows)
            images.index_copy_(0, rows, operation.apply(images.index_select(0, rows), strengths))
    return images


def chosen_operations(ids: Tensor, views: Tensor, seed: int, operations: int) -> tuple[Tensor, Tensor]:
    """For each round and key [operations, B] the number of its operation, and its sign, -1.0 or 1.0.

    A negative view draws Identity.
    """
    rounds = 2 * torch.arange(operations, device=ids.device).unsqueeze(1)
    chosen = (uniform(_FAMILY, RAND_AUGMENT_VERSION, seed, ids, views, rounds) * len(OPERATIONS)).to(torch.int64)
    signs = (uniform(_FAMILY, RAND_AUGMENT_VERSION, seed, ids, views, rounds + 1) < 0.5).to(torch.float64)
    return chosen.masked_fill(views < 0, 0), 1 - 2 * signs


# -- the operations ---------------------------------------------------------------------------------------------------


def _shear_x(images: Tensor, strengths: Tensor) -> Tensor:
    # About the upper left corner, as torchvision does it; matrices count from the centre.
    return _warp(images, {(0, 1): strengths, (0, 2): strengths * (images.shape[2] / 2)})


def _shear_y(images: Tensor, strengths: Tensor) -> Tensor:
    return _warp(images, {(1, 0): strengths, (1, 2): strengths * (images.shape[3] / 2)})


def _translate_x(images: Tensor, strengths: Tensor) -> Tensor:
    return _warp(images, {(0, 2): -strengths})


def _translate_y(images: Tensor, strengths: Tensor) -> Tensor:
    return _warp(images, {(1, 2): -strengths})


def _rotate(images: Tensor, strengths: Tensor) -> Tensor:
    angles = strengths * (math.pi / 180)
    cosine, sine = angles.cos(), angles.sin()
    return _warp(images, {(0, 0): cosine, (0, 1): -sine, (1, 0): sine, (1, 1): cosine})


def _warp(images: Tensor, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    matrices = torch.eye(2, 3, dtype=torch.float64, device=images.device).repeat(len(images), 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    return warp(images, matrices)


def _sharpness(images: Tensor, strengths: Tensor) -> Tensor:
    """Away from a blurred image or towards it; the pixels at the edge stay, as in torchvision and Pillow."""
    height, width = images.shape[2:]
    if height < 3 or width < 3:
        return images
    pixels = images.to(torch.int32)
    # Weights 1 around a 5, over 13.
    lines = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    around = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    blurred = torch.div(2 * around + 13, 26, rounding_mode='floor')
    pixels[:, :, 1:-1, 1:-1] = blurred
    return blend(images, pixels, 1 + strengths)


def _posterize(images: Tensor, strengths: Tensor) -> Tensor:
    """Keep the highest bits, so many as the strength says."""
    dropped = (8 - strengths).to(torch.int32).view(-1, 1, 1, 1)
    return ((images.to(torch.int32) >> dropped) << dropped).to(torch.uint8)


def _solarize(images: Tensor, strengths: Tensor) -> Tensor:
    """Invert the pixels from the strength on."""
    return torch.where(images >= strengths.view(-1, 1, 1, 1), 255 - images, images)


def _auto_contrast(images: Tensor, strengths: Tensor) -> Tensor:
    """Stretch each channel to 0 and 255; one of a single level stays."""
    pixels = images.to(torch.int32)
    lowest = pixels.amin((2, 3), keepdim=True)
    spread = pixels.amax((2, 3), keepdim=True) - lowest
    stretched = torch.div((pixels - lowest) * 510 + spread, (2 * spread).clamp(min=1), rounding_mode='floor')
    return torch.where(spread > 0, stretched, pixels).to(torch.uint8)


def _equalize(images: Tensor, strengths: Tensor) -> Tensor:
    """Pillow's: level v becomes (pixels below v + step // 2) // step, where step is a 255th of all but the lightest."""
    flat = images.flatten(2).to(torch.int64)
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    lightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = torch.div(flat.shape[2] - lightest, 255, rounding_mode='floor')
    below = F.pad(counts.cumsum(2), (1, -1))
    levels = torch.div(below + (step >> 1), step.clamp(min=1), rounding_mode='floor').clamp_(max=255)
    return torch.where(step > 0, levels.gather(2, flat), flat).view_as(images).to(torch.uint8)


def _part_of(largest: float) -> Callable[[int, int, int], float]:
    return lambda magnitude, *size: largest * magnitude / LARGEST_MAGNITUDE


def _whole_pixels(axis: int) -> Callable[[int, int, int], float]:
    return lambda magnitude, *size: 150 * size[axis] * magnitude // (331 * LARGEST_MAGNITUDE)


# In torchvision's order, which the draws go by: another list is another version.
OPERATIONS = {
    'Identity': Operation(lambda images, strengths: images),
    'ShearX': Operation(_shear_x, _part_of(0.3), signed=True),
    'ShearY': Operation(_shear_y, _part_of(0.3), signed=True),
    'TranslateX': Operation(_translate_x, _whole_pixels(1), signed=True),
    'TranslateY': Operation(_translate_y, _whole_pixels(0), signed=True),
    'Rotate': Operation(_rotate, _part_of(30), signed=True),
    'Brightness': Operation(lambda images, strengths: adjust_brightness(images, 1 + strengths), _part_of(0.9), True),
    'Color': Operation(lambda images, strengths: adjust_saturation(images, 1 + strengths), _part_of(0.9), True),
    'Contrast': Operation(lambda images, strengths: adjust_contrast(images, 1 + strengths), _part_of(0.9), True),
    'Sharpness': Operation(_sharpness, _part_of(0.9), signed=True),
    'Posterize': Operation(_posterize, lambda magnitude, *size: 8 - round(4 * magnitude / LARGEST_MAGNITUDE)),
    'Solarize': Operation(
        _solarize, lambda magnitude, *size: 255 * (LARGEST_MAGNITUDE - magnitude) / LARGEST_MAGNITUDE
    ),
    'AutoContrast': Operation(_auto_contrast),
    'Equalize': Operation(_equalize),
}
