"""synthetic100: the same everywhere, balanced, growing at its end, with a hierarchy that pixels show."""

import numpy as np
import xxhash

from composer_kd.data.section import SyntheticSection
from composer_kd.data.synthetic import COARSE, FINE_CLASSES, SUPERCLASSES, draw


def test_golden_pixels():
    """Other machines, and other versions of numpy, must draw these very bytes; a change needs a new version."""
    images, labels = draw(500, 0, SyntheticSection())
    assert (images.shape, images.dtype) == ((500, 32, 32, 3), np.uint8)
    assert labels[:8].tolist() == [93, 61, 75, 9, 36, 39, 85, 55]
    assert xxhash.xxh3_64_hexdigest(images.tobytes()) == '6841c1362aed2720'


def test_a_larger_set_begins_with_the_smaller_one():
    small, large = draw(250, 0, SyntheticSection()), draw(700, 0, SyntheticSection())
    assert np.array_equal(small[0], large[0][:250])
    assert np.array_equal(small[1], large[1][:250])


def test_every_hundred_holds_each_class_once():
    _, labels = draw(600, 1, SyntheticSection())
    assert np.array_equal(np.sort(labels.reshape(6, 100)), np.tile(np.arange(100), (6, 1)))


def test_seed_split_and_difficulty_change_the_images():
    drawn = [
        draw(100, split, SyntheticSection(seed=seed, difficulty=difficulty))[0].tobytes()
        for split, seed, difficulty in [(0, 0, 1.0), (1, 0, 1.0), (0, 1, 1.0), (0, 0, 0.5)]
    ]
    assert len(set(drawn)) == 4


def test_twenty_superclasses_of_five():
    assert (len(FINE_CLASSES), len(set(FINE_CLASSES)), len(SUPERCLASSES)) == (100, 100, 20)
    assert np.bincount(COARSE).tolist() == [5] * 20
    assert all(name.startswith(SUPERCLASSES[coarse]) for name, coarse in zip(FINE_CLASSES, COARSE, strict=True))


def test_without_difficulty_classes_look_alike_within_their_superclass_and_not_beyond():
    images, labels = draw(1500, 0, SyntheticSection(difficulty=0.0))
    means = np.stack([images[labels == label].mean(0) for label in range(100)]).reshape(100, -1)
    distance = ((means[:, None] - means[None]) ** 2).mean(-1)
    np.fill_diagonal(distance, np.nan)
    same = np.equal.outer(COARSE, COARSE)
    assert np.nanmedian(distance[same]) < 0.5 * np.nanmedian(distance[~same])
    assert np.nanmin(distance) > 1  # and yet no two classes are the same


def test_mirroring_does_not_turn_a_class_into_another():
    """Training flips images: nothing about a class may depend on left and right."""
    images, labels = draw(6000, 0, SyntheticSection(difficulty=0.3))
    means = np.stack([images[labels == label].mean(0) for label in range(100)])
    mirrored = means[:, :, ::-1]
    for coarse in range(20):
        rows = slice(5 * coarse, 5 * coarse + 5)
        distance = ((mirrored[rows, None] - means[None, rows]) ** 2).mean((2, 3, 4))
        assert (distance.argmin(1) == np.arange(5)).mean() >= 0.8
