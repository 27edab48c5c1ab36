"""``synthetic100``: procedurally drawn 32x32 colour images, 100 fine classes in 20 superclasses.

A superclass is an outline (disc, square, triangle, cross, ring) filled with a pattern (plain, stripes, checks, spots)
in its own range of colours. Its five fine classes share all that and differ in details: how high a mark sits, the
outline's proportions, and how fine the pattern is; none of them changes when the image is mirrored. So a model that has
learned the data knows which classes resemble each other, and has something to pass on.

Position, size, rotation, colours, background, clutter, occlusion and noise vary from image to image, the more the
higher the difficulty. Everything is computed in float32 with operations that IEEE 754 rounds exactly (no sine, no
power), out of PCG64's stream, so that the same parameters draw the same images on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer_kd.data.cache import kept
from composer_kd.data.section import SYNTHETIC, SyntheticSection
from composer_kd.data.write import Images, Labelled, write_shards

__all__ = ['COARSE', 'FINE_CLASSES', 'SUPERCLASSES', 'draw', 'synthetic_folder']

# Part of the cached folder's name: raised with any change to what is drawn.
_VERSION = 1

_OUTLINES = ('disc', 'square', 'triangle', 'cross', 'ring')
_PATTERNS = ('plain', 'striped', 'checked', 'spotted')
_DETAILS = 5
SUPERCLASSES = tuple(f'{pattern} {outline}' for pattern in _PATTERNS for outline in _OUTLINES)
FINE_CLASSES = tuple(f'{name} {detail + 1}' for name in SUPERCLASSES for detail in range(_DETAILS))
COARSE = tuple(number // _DETAILS for number in range(len(FINE_CLASSES)))

_SIDE = 32
# Images are drawn this many at a time, each block from a stream of its own: a larger set begins with the smaller one.
_BLOCK = 500

Array = NDArray[np.float32]


def draw(count: int, split: int, section: SyntheticSection) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw ``count`` images, uint8 [N, 32, 32, 3], and their labels; every hundred in a row has each class once.

    Args:
        count: Number of images.
        split: 0 for training, 1 for test.
        section: Seed and difficulty.
    """
    blocks = [_draw_block(block, split, section) for block in range(-(-count // _BLOCK))]
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*blocks, strict=True))
    return images, labels


def synthetic_folder(section: SyntheticSection, cache: Path) -> Path:
    """The shards of a drawn data set, in the cache folder; drawn when they are not there."""
    name = f'{SYNTHETIC}-v{_VERSION}-{section.train_size}-{section.test_size}-{section.difficulty:g}-seed{section.seed}'

    def build(folder: Path) -> None:
        splits = {
            'train': Images(_samples(section.train_size, 0, section), section.train_size),
            'test': Images(_samples(section.test_size, 1, section), section.test_size),
        }
        write_shards(folder, splits, SYNTHETIC, FINE_CLASSES, SUPERCLASSES, COARSE, encoding='ndarray')

    return kept(cache, name, build)


def _samples(count: int, split: int, section: SyntheticSection) -> Iterator[Labelled]:
    images, labels = draw(count, split, section)
    return zip(images, labels.tolist(), strict=True)


def _draw_block(block: int, split: int, section: SyntheticSection) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    rng = np.random.Generator(np.random.PCG64([_VERSION, section.seed, split, block]))
    hard = section.difficulty
    classes = len(FINE_CLASSES)
    labels = np.concatenate([rng.random(classes).argsort(kind='stable') for _ in range(_BLOCK // classes)])
    coarse, detail = np.divmod(labels, _DETAILS)
    pattern, outline = np.divmod(coarse, len(_OUTLINES))

    canvas = _background(rng, hard)
    _clutter(canvas, rng, hard)

    centre = 16 + _spread(rng, 2) * (4 * hard)
    radius = (9 + _spread(rng) * (2.5 * hard))[:, 0]
    turn = _spread(rng)[:, 0] * (0.22 * hard)  # the tangent of half the angle
    u, v = _rotated(centre, turn)
    u, v = u / radius[:, None, None], v / radius[:, None, None]

    # Proportions, pattern and mark carry the fine class, each blurred a little, so that none of them settles it alone.
    level = (detail - 2).astype(np.float32)
    stretch = 1 + level * 0.06 + _spread(rng)[:, 0] * (0.10 * hard)
    inside = _soft(_distance(u * stretch[:, None, None], v / stretch[:, None, None], outline), radius)
    pitch = 2.6 + level * 0.28 + _spread(rng)[:, 0] * (0.45 * hard)
    shade = _pattern(u, v, pattern, pitch, _spread(rng, 2))

    hue = (coarse * 0.35 + _spread(rng)[:, 0] * (0.14 * hard)).astype(np.float32)
    body, second = _colour(hue, rng, hard), _colour(hue + 0.3, rng, hard)
    fill = body[:, None, None] * shade[..., None] + second[:, None, None] * (1 - shade[..., None])
    canvas += inside[..., None] * (fill - canvas)

    _mark(canvas, u, v, radius, detail, rng, hard)
    _occlude(canvas, rng, hard)
    light = 1 + _spread(rng)[:, :, None, None] * (0.25 * hard)
    canvas *= light
    canvas += (rng.random(canvas.shape, np.float32) + rng.random(canvas.shape, np.float32) - 1) * (0.14 * hard)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8), labels


def _background(rng: np.random.Generator, hard: float) -> Array:
    """A gradient between two dull colours."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) / (_SIDE - 1)
    towards = rng.random((_BLOCK, 2), np.float32)
    along = towards[:, 0, None, None] * rows + (1 - towards[:, 0, None, None]) * columns
    first = 0.5 + _spread(rng, 3) * (0.35 * hard)
    last = 0.5 + _spread(rng, 3) * (0.35 * hard)
    return first[:, None, None] + along[..., None] * (last - first)[:, None, None]


def _clutter(canvas: Array, rng: np.random.Generator, hard: float) -> None:
    """Smaller outlines of any colour behind the object, one to three."""
    for number in range(3):
        shown = (rng.random(_BLOCK, np.float32) < 0.9 * min(1.0, hard) - 0.25 * number).astype(np.float32)
        centre = rng.random((_BLOCK, 2), np.float32) * _SIDE
        radius = 2.5 + rng.random(_BLOCK, np.float32) * 3
        u, v = _rotated(centre, _spread(rng)[:, 0])
        outline = (rng.random(_BLOCK) * len(_OUTLINES)).astype(np.int64)
        inside = _soft(_distance(u / radius[:, None, None], v / radius[:, None, None], outline), radius)
        colour = rng.random((_BLOCK, 3), np.float32)
        canvas += (inside * shown[:, None, None])[..., None] * (colour[:, None, None] - canvas)


def _mark(
    canvas: Array,
    u: Array,
    v: Array,
    radius: Array,
    detail: NDArray[np.int64],
    rng: np.random.Generator,
    hard: float,
) -> None:
    """A light or dark spot at one of five heights of the object."""
    at = _spread(rng, 2) * (np.array([0.45, 0.18], np.float32) * hard)
    at[:, 1] += (detail - 2).astype(np.float32) * 0.33
    size = 0.26 + _spread(rng)[:, 0] * (0.07 * hard)
    du, dv = u - at[:, 0, None, None], v - at[:, 1, None, None]
    inside = _soft(np.sqrt(du * du + dv * dv) - size[:, None, None], radius)
    strength = 0.9 - rng.random(_BLOCK, np.float32) * (0.5 * hard)
    light = (rng.random(_BLOCK) < 0.5).astype(np.float32)
    canvas += (inside * strength[:, None, None])[..., None] * (light[:, None, None, None] - canvas)


def _occlude(canvas: Array, rng: np.random.Generator, hard: float) -> None:
    """A box of one colour over a part of some images."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    centre = rng.random((_BLOCK, 2), np.float32) * _SIDE
    half = 2 + rng.random((_BLOCK, 2), np.float32) * (3.5 * hard)
    covered = (np.abs(rows - centre[:, 0, None, None]) < half[:, 0, None, None]) & (
        np.abs(columns - centre[:, 1, None, None]) < half[:, 1, None, None]
    )
    covered &= (rng.random(_BLOCK, np.float32) < 0.5 * hard)[:, None, None]
    colour = rng.random((_BLOCK, 3), np.float32)
    np.copyto(canvas, colour[:, None, None], where=covered[..., None])


def _distance(u: Array, v: Array, outline: NDArray[np.int64]) -> Array:
    """Below 0 inside the outline, above outside; about 1 a radius."""
    distance = np.empty_like(u)
    for number, name in enumerate(_OUTLINES):
        rows = outline == number
        x, y = u[rows], v[rows]
        a, b = np.abs(x), np.abs(y)
        if name == 'disc':
            distance[rows] = np.sqrt(x * x + y * y) - 1
        elif name == 'square':
            distance[rows] = np.maximum(a, b) - 0.86
        elif name == 'triangle':
            distance[rows] = np.maximum(0.87 * a + 0.5 * y, -y) - 0.62
        elif name == 'cross':
            thin = 0.42
            distance[rows] = np.minimum(np.maximum(a - 1, b - thin), np.maximum(a - thin, b - 1))
        else:
            distance[rows] = np.abs(np.sqrt(x * x + y * y) - 0.75) - 0.28
    return distance


def _pattern(u: Array, v: Array, pattern: NDArray[np.int64], pitch: Array, phase: Array) -> Array:
    """From 0 to 1: how much of the first colour, against the second, shows at each point."""
    x = u * pitch[:, None, None] + phase[:, 0, None, None]
    y = v * pitch[:, None, None] + phase[:, 1, None, None]
    shade = np.empty_like(u)
    for number, name in enumerate(_PATTERNS):
        rows = pattern == number
        across, down = _wave(x[rows]), _wave(y[rows])
        if name == 'plain':
            shade[rows] = np.clip(0.75 - 0.1 * y[rows], 0, 1)
        elif name == 'striped':
            shade[rows] = _step(across)
        elif name == 'checked':
            shade[rows] = _step(across * down * 2)
        else:
            shade[rows] = _step(0.1 + across + down)
    return shade


def _wave(x: Array) -> Array:
    """A triangle wave of period 1 between -1 and 1."""
    return np.abs((x - np.floor(x)) * 4.0 - 2.0) - 1.0


def _step(x: Array) -> Array:
    return np.clip(x * 2 + 0.5, 0, 1)


def _soft(distance: Array, radius: Array) -> Array:
    """Coverage of a pixel, with an edge one pixel wide."""
    return np.clip(0.5 - distance * radius[:, None, None], 0, 1)


def _rotated(centre: Array, turn: Array) -> tuple[Array, Array]:
    """Coordinates about ``centre``, turned by the angle whose half has the tangent ``turn``."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32)
    x, y = columns - centre[:, 0, None, None], rows - centre[:, 1, None, None]
    # Cosine and sine as rational functions: divisions round alike everywhere, libm's functions do not.
    square = turn * turn
    cosine = ((1 - square) / (1 + square))[:, None, None]
    sine = (2 * turn / (1 + square))[:, None, None]
    return cosine * x + sine * y, cosine * y - sine * x


def _colour(hue: Array, rng: np.random.Generator, hard: float) -> Array:
    """RGB of a hue (period 1), with jittered saturation and brightness."""
    offsets = np.array([0, 4, 2], np.float32)
    turned = hue[:, None] * 6 + offsets
    turned -= np.floor(turned / 6) * 6
    pure = np.clip(np.abs(turned - 3) - 1, 0, 1)
    saturation = 0.65 + _spread(rng) * (0.3 * hard)
    brightness = 0.75 + _spread(rng) * (0.25 * hard)
    return (1 - saturation * (1 - pure)) * brightness


def _spread(rng: np.random.Generator, width: int = 1) -> Array:
    """[block, width] numbers between -1 and 1, the middle likelier."""
    return rng.random((_BLOCK, width), np.float32) + rng.random((_BLOCK, width), np.float32) - 1
