"""The replayable crop and flip against a reference in plain Python integers, and the exact normalisation."""

import pytest
import torch

from composer_kd.functional.augment import AUGMENT_VERSION, augment, normalise
from composer_kd.functional.counter import counter_hash

GOLDEN = [
    [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 0, 0, 0, 0],
    [0, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9],
    [6, 5, 0, 0, 10, 9, 0, 0, 14, 13, 0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 4, 0, 6, 7, 8, 0],
]


def images_of(count, channels=3, height=32, width=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def reference(image, sample_id, view, seed, padding, flip):
    """One image at a time, one pixel at a time, from the definition."""
    drawn = int(counter_hash(AUGMENT_VERSION, seed, sample_id, view)) & (2**64 - 1)
    top = (drawn & 0xFFFF) * (2 * padding + 1) >> 16
    left = (drawn >> 16 & 0xFFFF) * (2 * padding + 1) >> 16
    mirrored = flip and drawn >> 63 == 1
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y = row + top - padding
            x = (width - 1 - column if mirrored else column) + left - padding
            if 0 <= y < height and 0 <= x < width:
                out[:, row, column] = image[:, y, x]
    return out


@pytest.mark.parametrize(('padding', 'flip'), [(4, True), (4, False), (0, True), (1, True)])
def test_equals_the_reference(padding, flip):
    images, ids = images_of(6, height=7, width=5), torch.tensor([0, 1, 2, 3, 2**40, 5])
    views = torch.tensor([0, 1, 2, 3, 100, 5])
    got = augment(images, ids, views, seed=9, padding=padding, flip=flip)
    for row in range(6):
        expected = reference(images[row], int(ids[row]), int(views[row]), 9, padding, flip)
        assert torch.equal(got[row], expected)
    assert got.is_contiguous()


def test_golden_values_never_change():
    """Logits recorded by earlier runs belong to these very pixels."""
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    got = augment(image.expand(4, 1, 4, 4), torch.arange(4), 7, seed=3, padding=2)
    assert got.flatten(1).tolist() == GOLDEN


def test_view_minus_one_is_the_stored_image():
    images = images_of(8)
    assert torch.equal(augment(images, torch.arange(8), -1, seed=0), images)
    views = torch.tensor([0, -1] * 4)
    mixed = augment(images, torch.arange(8), views, seed=0)
    assert torch.equal(mixed[1::2], images[1::2])
    assert not torch.equal(mixed[::2], images[::2])


def test_a_view_depends_on_its_key_alone():
    images, ids = images_of(16), torch.arange(16)
    whole = augment(images, ids, 3, seed=1)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(images[order], ids[order], 3, seed=1), whole[order])
    assert torch.equal(augment(images[:1], ids[:1], 3, seed=1), whole[:1])
    assert not torch.equal(augment(images, ids, 4, seed=1), whole)
    assert not torch.equal(augment(images, ids, 3, seed=2), whole)


def test_offsets_and_flips_are_uniform():
    marked = torch.zeros(20000, 1, 9, 9, dtype=torch.uint8)
    marked[:, 0, 4, 4] = 1  # the middle: a flip leaves it there, a crop moves it
    moved = augment(marked, torch.arange(20000), 0, seed=0, padding=4).flatten(1).float().mean(0)
    assert moved.min() > 0.8 / 81
    assert moved.max() < 1.2 / 81
    sided = torch.zeros(20000, 1, 1, 2, dtype=torch.uint8)
    sided[..., 0] = 1
    flipped = augment(sided, torch.arange(20000), 0, seed=0, padding=0)[..., 1].float().mean()
    assert abs(flipped - 0.5) < 0.015


def test_normalise_is_one_multiplication_and_one_addition():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 2, 1, 1)
    got = normalise(images, [0.5, 0.25], [0.2, 0.3])
    for channel, (mean, std) in enumerate([(0.5, 0.2), (0.25, 0.3)]):
        scale = torch.tensor(1 / (255 * std), dtype=torch.float32)
        shift = torch.tensor(-mean / std, dtype=torch.float32)
        assert torch.equal(got[0, channel], images[0, channel].float() * scale + shift)
        exact = (images[0, channel].double() / 255 - mean) / std
        torch.testing.assert_close(got[0, channel].double(), exact, rtol=0, atol=1e-6)
    assert normalise(images, [0.5, 0.25], [0.2, 0.3], torch.bfloat16).dtype == torch.bfloat16
    assert images.dtype == torch.uint8


def test_float_images_are_refused():
    with pytest.raises(TypeError, match='uint8'):
        augment(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64), 0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_gpu_gives_the_same_bits():
    images, ids, views = images_of(64), torch.arange(64), torch.arange(64) % 5 - 1
    here = augment(images, ids, views, seed=4)
    there = augment(images.cuda(), ids.cuda(), views.cuda(), seed=4)
    assert torch.equal(there.cpu(), here)
    assert torch.equal(normalise(there, [0.5] * 3, [0.2] * 3).cpu(), normalise(here, [0.5] * 3, [0.2] * 3))
