"""The kinds of corruption with their constants, and one function that applies any of them.

The constants are those of the 32x32 version of the benchmark (Hendrycks and Dietterich, 2019, `Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations <https://arxiv.org/abs/1903.12261>`_: ``make_cifar_c.py`` of
its repository). ``docs/drift.md`` says where we compute otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from composer_kd.core.errors import UserError, nearest
from composer_kd.functional.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from composer_kd.functional.corruptions.digital import (
    brightness,
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
    to_uint8,
)
from composer_kd.functional.corruptions.draws import Draws
from composer_kd.functional.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from composer_kd.functional.corruptions.weather import fog, frost, snow

__all__ = ['CORRUPTIONS', 'SEVERITIES', 'CorruptionKind', 'corrupt', 'severities_of']

SEVERITIES = 5


@dataclass(frozen=True)
class CorruptionKind:
    """One kind of corruption.

    Attributes:
        paint: The function; after images and draws it takes a row of constants.
        summary: A line for people.
        constants: Of severities 1 to 5.
        none: Constants that change nothing, for kinds whose constants are real numbers and may lie between two rows;
            other kinds have ``None``.
        draws: Whether it draws anything: if not, one image looks the same under every id and seed.
        version: In the name of every cache, raised by whoever changes what is painted with the same draws.
    """

    paint: Callable[..., Tensor]
    summary: str
    constants: Sequence[Sequence[float]]
    none: Sequence[float] | None = None
    draws: bool = True
    version: int = 1


# In the published order, which numbers the draws: a new kind goes to the end.
CORRUPTIONS: dict[str, CorruptionKind] = {
    'gaussian_noise': CorruptionKind(
        gaussian_noise, 'a normal number on every value', [(0.04,), (0.06,), (0.08,), (0.09,), (0.10,)], (0,)
    ),
    # The published constants are photons at full brightness; their inverse is a variance, which none has too.
    'shot_noise': CorruptionKind(
        shot_noise, 'photons counted', [(1 / 500,), (1 / 250,), (1 / 100,), (1 / 75,), (1 / 50,)], (0,), version=2
    ),
    'impulse_noise': CorruptionKind(
        impulse_noise, 'values that are black or white', [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)], (0,)
    ),
    'defocus_blur': CorruptionKind(
        defocus_blur, 'a soft disc', [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)], draws=False
    ),
    'glass_blur': CorruptionKind(
        glass_blur, 'pixels from next to them', [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)]
    ),
    # Of radius and sigma: those of severities 3 and 4 draw the same, for no radius here cuts its Gaussian off.
    'motion_blur': CorruptionKind(motion_blur, 'drawn along a line', [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)]),
    'zoom_blur': CorruptionKind(zoom_blur, 'the mean of enlargements', [(7,), (12,), (16,), (21,), (26,)], draws=False),
    'snow': CorruptionKind(
        snow,
        'flakes under a pale sky',
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    'frost': CorruptionKind(frost, 'ice crystals', [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)], (1, 0)),
    'fog': CorruptionKind(fog, 'a cloud', [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)], (0, 3)),
    'brightness': CorruptionKind(brightness, 'brighter', [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)], (0,), draws=False),
    'contrast': CorruptionKind(
        contrast, 'towards the mean', [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)], (1,), draws=False
    ),
    'elastic_transform': CorruptionKind(
        elastic_transform,
        'sheared, turned and wobbled',
        [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    ),
    'pixelate': CorruptionKind(pixelate, 'fewer pixels', [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)], draws=False),
    'jpeg_compression': CorruptionKind(jpeg_compression, 'JPEG', [(80,), (65,), (58,), (50,), (40,)], draws=False),
}

# Numbers a stream of its own beside those of the kinds: which samples a severity between two makes the worse ones.
_BETWEEN = -1


def corrupt(images: Tensor, ids: Tensor, kind: str, severity: float, seed: int = 0) -> Tensor:
    """The images as one kind of corruption leaves them, a pure function of each image, its id, severity and seed.

    Args:
        images: uint8 of shape [B, C, H, W], one channel or three.
        ids: The sample ids, integers of shape [B].
        kind: A name in :data:`CORRUPTIONS`.
        severity: From 0, nothing, to 5. Between two whole ones lie constants where the kind's are real numbers; of the
            other kinds, that share of the samples has the higher one.
        seed: Names the whole set of draws.

    Returns:
        uint8 of the same shape, on the device of the images.
    """
    if kind not in CORRUPTIONS:
        raise UserError(f'{kind!r} is not a kind of corruption; {nearest(kind, CORRUPTIONS)}')
    if not 0 <= severity <= SEVERITIES:
        raise UserError(f'severity {severity:g}: severities of a corruption are 1 to {SEVERITIES}')
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f'corruptions are of uint8 images [B, C, H, W] from 0 to 255 with 1 or 3 channels, these are '
            f'{str(images.dtype).removeprefix("torch.")} {list(images.shape)}'
        )
    found = CORRUPTIONS[kind]
    ids = ids.to(images.device)
    draws = Draws(seed, list(CORRUPTIONS).index(kind), ids.to(torch.int64))
    if found.none is not None:
        lower, part = floor(severity), severity - floor(severity)
        rows = [found.none, *found.constants, found.constants[-1]]
        constants = [low + (high - low) * part for low, high in zip(rows[lower], rows[lower + 1], strict=True)]
        return images.clone() if severity == 0 else _painted(images, draws, found.paint, constants)
    corrupted = images.clone()
    severities = severities_of(ids, severity, seed)
    for level in severities.unique().tolist():
        if level > 0:
            chosen = severities == level
            some = Draws(draws.seed, draws.kind, draws.ids[chosen])
            corrupted[chosen] = _painted(images[chosen], some, found.paint, found.constants[level - 1])
    return corrupted


def severities_of(ids: Tensor, severity: float, seed: int) -> Tensor:
    """A whole severity for each sample, int64 [B]: the one below, and the one above for the share between the two.

    Who has the higher one keeps it while the severity rises.
    """
    above = Draws(seed, _BETWEEN, ids).uniform(0, 1)[:, 0] < severity - floor(severity)
    return floor(severity) + above.to(torch.int64)


def _painted(images: Tensor, draws: Draws, paint: Callable[..., Tensor], constants: Sequence[float]) -> Tensor:
    return to_uint8(paint(images.to(torch.float32) / 255, draws, *constants))
