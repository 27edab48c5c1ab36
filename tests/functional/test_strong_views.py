"""Resized crops, colour jitter and RandAugment: operations against torchvision's, and views that keys alone name."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as peer

from composer_kd.functional import colour_jitter, rand_augment, resized_crop
from composer_kd.functional.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, to_grey
from composer_kd.functional.rand_augment import OPERATIONS, chosen_operations
from composer_kd.functional.resized_crop import crop_boxes

FAMILIES = {
    'resized_crop': resized_crop,
    'colour_jitter': colour_jitter,
    'rand_augment': rand_augment,
    'strong rand_augment': lambda *key: rand_augment(*key, operations=4, magnitude=30),
}
every_family = pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES.keys())


def images_of(count: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Noise, and every fourth image smooth, grey, of few levels or of one."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    images[1::4] = (images[1::4] // 8) + torch.arange(width, dtype=torch.uint8) * (200 // width)
    images[2::4] = images[2::4, :1]
    images[3::8] = images[3::8] // 64 * 60
    images[7::8] = images[7::8, :, :1, :1]
    return images


def furthest(ours: torch.Tensor, theirs: torch.Tensor, images: torch.Tensor | None = None) -> int:
    """The largest difference, but where the luma of ``images`` is whole: float32 may put that into the grey below."""
    difference = (ours.int() - theirs.int()).abs()
    if images is not None and images.shape[1] == 3:
        assert difference.max() <= 2
        difference = difference.masked_fill(luma(images) % 10000 == 0, 0)
    return int(difference.max())


def luma(images: torch.Tensor) -> torch.Tensor:
    """In ten-thousandths of a level."""
    return (images.int() * torch.tensor([2989, 5870, 1140], dtype=torch.int32).view(3, 1, 1)).sum(1, keepdim=True)


# -- keys -------------------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize('channels', [1, 3])
def test_a_view_depends_on_its_key_alone(family, channels) -> None:
    images, ids = images_of(40, channels, 20, 28), torch.arange(40) * 7919
    whole = family(images, ids, 3, 1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(family(images[order], ids[order], torch.full((40,), 3), 1), whole[order])
    alone = [family(images[row : row + 1], ids[row : row + 1], 3, 1) for row in range(40)]
    assert torch.equal(torch.cat(alone), whole)
    assert (whole.dtype, whole.shape, whole.is_contiguous()) == (torch.uint8, images.shape, True)
    for other in (family(images, ids, 4, 1), family(images, ids, 3, 2), family(images, ids + 1, 3, 1)):
        same = (other == whole).flatten(1).all(1)
        assert same.float().mean() < 0.4  # Few images have one level alone, and RandAugment may draw the same.


@every_family
def test_view_minus_one_is_the_stored_image(family) -> None:
    images, views = images_of(16), torch.tensor([0, -1] * 8)
    kept = images.clone()
    assert torch.equal(family(images, torch.arange(16), -1, 0), images)
    mixed = family(images, torch.arange(16), views, 0)
    assert torch.equal(mixed[1::2], images[1::2])
    assert not torch.equal(mixed[::2], images[::2])
    assert torch.equal(images, kept)


@every_family
def test_float_images_are_refused(family) -> None:
    with pytest.raises(TypeError, match='uint8'):
        family(torch.zeros(1, 3, 4, 4), torch.zeros(1, dtype=torch.int64), 0, 0)


@every_family
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_the_gpu_gives_the_same_bits(family) -> None:
    images, ids, views = images_of(256), torch.arange(256), torch.arange(256) % 5 - 1
    assert torch.equal(family(images.cuda(), ids.cuda(), views.cuda(), 4).cpu(), family(images, ids, views, 4))


def test_golden_parameters_never_change() -> None:
    """Logits recorded by earlier runs belong to these very boxes, factors and operations."""
    ids, views = torch.arange(6), torch.tensor([0, 0, 5, 5, 9, -1])
    boxes = torch.stack(crop_boxes(ids, views, 3, 32, 32), 1)
    assert boxes.tolist() == BOXES
    chosen, signs = chosen_operations(ids, views, 3, 2)
    names = list(OPERATIONS)
    assert [[names[number] for number in one_each] for one_each in chosen.tolist()] == CHOSEN
    assert signs.tolist() == SIGNS
    # A pixel of 100 shows its factor; two greys, the contrast's; one of a pure colour, the saturation's and its hue.
    bright = colour_jitter(torch.full((6, 1, 1, 1), 100, dtype=torch.uint8), ids, views, 3, 0.9, 0, 0, 0)
    assert bright.flatten().tolist() == BRIGHT
    greys = torch.tensor([50, 150], dtype=torch.uint8).view(1, 1, 1, 2).repeat(6, 1, 1, 1)
    assert colour_jitter(greys, ids, views, 3, 0, 0.9, 0, 0)[..., 1].flatten().tolist() == APART
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).repeat(6, 1, 1, 1)
    assert colour_jitter(red, ids, views, 3, 0, 0, 0.9, 0)[:, 0].flatten().tolist() == PALE
    assert colour_jitter(red, ids, views, 3, 0, 0, 0, 0.5).flatten(1).tolist() == TURNED


def test_golden_pixels_never_change() -> None:
    """All of it is whole numbers, so that pixels are the same everywhere, not only about the same."""
    image = (torch.arange(16, dtype=torch.uint8) * 15).view(1, 1, 4, 4).expand(3, 3, 4, 4)
    ids, views = torch.arange(3), torch.tensor([0, 1, 2])
    crops = resized_crop(image, ids, views, 3)
    assert crops[:, 0].flatten(1).tolist() == CROPS
    turned = OPERATIONS['Rotate'].apply(image[:1], torch.tensor([20.0], dtype=torch.float64))
    assert turned[0, 0].flatten().tolist() == ROTATED


BOXES = [[15, 0, 9, 12], [3, 4, 29, 26], [10, 11, 20, 18], [2, 6, 29, 24], [7, 7, 21, 20], [0, 0, 32, 32]]
CHOSEN = [
    ['AutoContrast', 'Color', 'TranslateX', 'ShearX', 'ShearX', 'Identity'],
    ['Equalize', 'Brightness', 'Solarize', 'Identity', 'Rotate', 'Identity'],
]
SIGNS = [[-1.0, 1.0, -1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, -1.0, -1.0, -1.0]]
BRIGHT = [32, 85, 59, 76, 21, 100]
APART = [121, 171, 109, 192, 170, 150]
PALE = [255, 159, 227, 89, 202, 200]
TURNED = [[126, 0, 200], [200, 0, 41], [0, 190, 200], [72, 200, 0], [0, 92, 200], [200, 0, 0]]
CROPS = [
    [120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120],
    [0, 9, 21, 30, 60, 69, 81, 90, 120, 129, 141, 150, 180, 189, 201, 210],
    [45, 30, 15, 0, 105, 90, 75, 60, 165, 150, 135, 120, 225, 210, 195, 180],
]
ROTATED = [5, 21, 53, 47, 35, 70, 104, 126, 80, 121, 155, 190, 83, 172, 186, 125]


# -- resized crop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('height', 'width'), [(32, 32), (24, 40)])
def test_a_resized_crop_is_torchvisions_of_the_same_box(height, width) -> None:
    images, ids, views = images_of(100, 3, height, width), torch.arange(100), torch.tensor(2)
    got = resized_crop(images, ids, views, 5, flip=False)
    for row, box in enumerate(torch.stack(crop_boxes(ids, views, 5, height, width), 1).tolist()):
        top, left, high, wide = box
        assert furthest(got[row], peer.resized_crop(images[row], top, left, high, wide, [height, width])) <= 1
    flipped = resized_crop(images, ids, views, 5)
    same = (flipped == got).flatten(1).all(1)
    mirrored = (flipped == got.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 0.3 < mirrored.float().mean() < 0.7


@pytest.mark.parametrize(
    ('size', 'scale', 'ratio'), [((32, 32), (0.08, 1.0), (3 / 4, 4 / 3)), ((20, 48), (0.25, 0.9), (0.5, 1.5))]
)
def test_boxes_are_distributed_as_torchvisions(size, scale, ratio) -> None:
    count, (height, width) = 4000, size
    boxes = torch.stack(crop_boxes(torch.arange(count), torch.tensor(0), 0, height, width, scale, ratio), 1).double()
    torch.manual_seed(0)
    image = torch.zeros(1, *size)
    theirs = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    expected = torch.tensor(theirs, dtype=torch.float64)
    for mine, other in ((boxes, expected), (boxes.log1p(), expected.log1p())):
        error = (mine.var(0) / count + other.var(0) / count).sqrt()
        assert ((mine.mean(0) - other.mean(0)).abs() < 4 * error).all()
    # And each of the four as a whole: the largest distance of the distributions, at 1 in 10,000.
    for column in range(4):
        levels = torch.arange(64).unsqueeze(1)
        shares = [(drawn[:, column] <= levels).double().mean(1) for drawn in (boxes, expected)]
        assert (shares[0] - shares[1]).abs().max() < 2.2 * math.sqrt(2 / count)


def test_the_area_is_uniform_down_to_eight_percent() -> None:
    top, left, high, wide = crop_boxes(torch.arange(50000), torch.tensor(1), 0, 256, 256)
    area = (high * wide).double() / 256**2
    # The sides are whole pixels.
    assert 0.08 - 0.002 < area.min() < 0.085
    assert ((top >= 0) & (left >= 0) & (top + high <= 256) & (left + wide <= 256)).all()
    # Areas above 3 / 4 fit in some ratios only; below, all do, and are uniform.
    below = area[area < 0.7]
    assert abs(below.mean() - (0.08 + 0.7) / 2) < 4 * 0.18 / len(below) ** 0.5
    stretch = (wide.double() / high)[area < 0.7].log()
    assert abs(stretch.mean()) < 0.005
    assert abs(stretch.abs().mean() - math.log(4 / 3) / 2) < 0.005


def test_where_no_box_fits_it_is_the_largest_in_the_middle() -> None:
    ids = torch.arange(5)
    wide = crop_boxes(ids, torch.tensor(0), 0, 10, 100, (0.9, 1.0))
    assert [column.tolist() for column in wide] == [[0] * 5, [43] * 5, [10] * 5, [13] * 5]
    high = crop_boxes(ids, torch.tensor(0), 0, 100, 10, (0.9, 1.0))
    assert [column.tolist() for column in high] == [[43] * 5, [0] * 5, [13] * 5, [10] * 5]


# -- colour -----------------------------------------------------------------------------------------------------------

FACTORS = [0.0, 0.1, 0.6, 0.999, 1.0, 1.234, 1.9, 3.0]
TURNS = [-0.5, -0.31, -0.1, 0.0, 0.04, 0.17, 0.333, 0.5]
ADJUSTMENTS = {
    'brightness': (adjust_brightness, peer.adjust_brightness, FACTORS),
    'contrast': (adjust_contrast, peer.adjust_contrast, FACTORS),
    'saturation': (adjust_saturation, peer.adjust_saturation, FACTORS),
    'hue': (adjust_hue, peer.adjust_hue, TURNS),
}


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize(('ours', 'theirs', 'values'), ADJUSTMENTS.values(), ids=ADJUSTMENTS.keys())
def test_an_adjustment_is_torchvisions(ours, theirs, values, channels) -> None:
    images = images_of(32, channels)
    for value in values:
        got = ours(images, torch.full((32,), value, dtype=torch.float64))
        assert furthest(got, theirs(images, value), images if ours is adjust_saturation else None) <= 1, value
    # Each sample has a factor of its own, and 1 (of hues, 0) is the image.
    mixed = ours(images[:8], torch.tensor(values, dtype=torch.float64))
    for row, value in enumerate(values):
        assert torch.equal(mixed[row], ours(images[row : row + 1], torch.tensor([value], dtype=torch.float64))[0])
    neutral = 0 if ours is adjust_hue else 1
    assert torch.equal(ours(images, torch.full((32,), neutral, dtype=torch.float64)), images)


def test_greys_are_exact_lumas_cut_off() -> None:
    levels = torch.arange(0, 256, 3, dtype=torch.uint8)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 86, -1)
    assert torch.equal(to_grey(cube).int(), luma(cube) // 10000)


def test_every_colour_turns_as_torchvisions() -> None:
    levels = torch.arange(0, 256, 15, dtype=torch.uint8)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 18, -1)
    for turn in TURNS:
        got = adjust_hue(cube, torch.tensor([turn], dtype=torch.float64))
        assert furthest(got, peer.adjust_hue(cube, turn)) <= 1
    whole = adjust_hue(cube, torch.tensor([1 / 3], dtype=torch.float64))
    assert furthest(whole, cube.roll(1, dims=1)) <= 1  # A third of the circle: red becomes green.


def test_factors_are_uniform_and_bounded() -> None:
    images, ids = torch.full((20000, 1, 1, 1), 100, dtype=torch.uint8), torch.arange(20000)
    bright = colour_jitter(images, ids, 0, 0, 0.4, 0, 0, 0).double().flatten() / 100
    assert (bright.min(), bright.max()) == (0.6, 1.4)
    assert abs(bright.mean() - 1) < 4 * 0.8 / 12**0.5 / 20000**0.5
    assert abs(bright.std() - 0.8 / 12**0.5) < 0.005
    assert colour_jitter(images, ids, 0, 0, 1.5, 0, 0, 0).min() == 0  # Factors end at 0, not below.
    assert torch.equal(colour_jitter(images, ids, 0, 0, 0, 0.9, 0.9, 0.5), images)  # A single grey pixel is its mean.


def test_the_adjustments_follow_each_other() -> None:
    """All four at once are the four one by one, with the same draws: each has a number of its own."""
    images, ids = images_of(64), torch.arange(64)
    steps = images
    for only in ((0.4, 0, 0, 0), (0, 0.3, 0, 0), (0, 0, 0.2, 0), (0, 0, 0, 0.1)):
        steps = colour_jitter(steps, ids, 7, 3, *only)
    assert torch.equal(colour_jitter(images, ids, 7, 3, 0.4, 0.3, 0.2, 0.1), steps)


# -- RandAugment ------------------------------------------------------------------------------------------------------


def by_torchvision(name: str, image: torch.Tensor, magnitude: float) -> torch.Tensor:
    """As torchvision's RandAugment applies it, its bilinear way with a black border."""
    bilinear, no_shear = InterpolationMode.BILINEAR, [0.0, 0.0]
    still = {'angle': 0.0, 'translate': [0, 0], 'scale': 1.0, 'shear': no_shear, 'interpolation': bilinear}
    angle = math.degrees(math.atan(magnitude))
    return {
        'Identity': lambda: image,
        'ShearX': lambda: peer.affine(image, **{**still, 'shear': [angle, 0.0], 'center': [0, 0]}),
        'ShearY': lambda: peer.affine(image, **{**still, 'shear': [0.0, angle], 'center': [0, 0]}),
        'TranslateX': lambda: peer.affine(image, **{**still, 'translate': [int(magnitude), 0]}),
        'TranslateY': lambda: peer.affine(image, **{**still, 'translate': [0, int(magnitude)]}),
        'Rotate': lambda: peer.rotate(image, magnitude, bilinear),
        'Brightness': lambda: peer.adjust_brightness(image, 1 + magnitude),
        'Color': lambda: peer.adjust_saturation(image, 1 + magnitude),
        'Contrast': lambda: peer.adjust_contrast(image, 1 + magnitude),
        'Sharpness': lambda: peer.adjust_sharpness(image, 1 + magnitude),
        'Posterize': lambda: peer.posterize(image, int(magnitude)),
        'Solarize': lambda: peer.solarize(image, magnitude),
        'AutoContrast': lambda: peer.autocontrast(image),
        'Equalize': lambda: peer.equalize(image),
    }[name]()


EXACT = ('Identity', 'TranslateX', 'TranslateY', 'Posterize', 'Solarize', 'Equalize')


@pytest.mark.parametrize('name', OPERATIONS)
def test_an_operation_is_torchvisions_at_every_magnitude(name) -> None:
    from torchvision.transforms.autoaugment import RandAugment

    operation = OPERATIONS[name]
    for channels, height, width in ((3, 32, 32), (1, 24, 40), (1, 90, 70)):
        images = images_of(16, channels, height, width)
        magnitudes, signed = RandAugment()._augmentation_space(31, (height, width))[name]
        assert operation.signed == signed
        for level in (0, 1, 9, 10, 17, 30):
            theirs = float(magnitudes[level]) if magnitudes.ndim else 0.0
            strength = operation.strength(level, height, width)
            assert strength == (int(theirs) if name.startswith('Translate') else pytest.approx(theirs, abs=1e-4))
            for sign in (1, -1) if signed else (1,):
                strengths = torch.full((16,), sign * strength, dtype=torch.float64)
                expected = by_torchvision(name, images, sign * theirs)
                got = operation.apply(images, strengths)
                assert furthest(got, expected, images if name == 'Color' else None) <= (name not in EXACT)


def test_the_operations_are_torchvisions_and_drawn_evenly() -> None:
    from torchvision.transforms.autoaugment import RandAugment

    assert list(OPERATIONS) == list(RandAugment()._augmentation_space(31, (32, 32)))
    chosen, signs = chosen_operations(torch.arange(20000), torch.tensor(0), 0, 2)
    pairs = torch.bincount(chosen[0] * 14 + chosen[1], minlength=196).double()
    assert ((pairs / 20000 - 1 / 196).abs() < 4.5 * math.sqrt(1 / 196 / 20000)).all()
    assert (signs.mean(1).abs() < 4 / 20000**0.5).all()


def test_samples_go_through_what_they_drew() -> None:
    images, ids = images_of(60), torch.arange(60)
    got = rand_augment(images, ids, 1, 0, operations=3, magnitude=12)
    chosen, signs = chosen_operations(ids, torch.tensor(1), 0, 3)
    for row in range(60):
        image = images[row : row + 1]
        for round_ in range(3):
            operation = list(OPERATIONS.values())[int(chosen[round_, row])]
            sign = float(signs[round_, row]) if operation.signed else 1.0
            image = operation.apply(image, torch.tensor([sign * operation.strength(12, 32, 32)], dtype=torch.float64))
        assert torch.equal(got[row], image[0])
    fewer = chosen_operations(ids, torch.tensor(1), 0, 2)[0]
    assert torch.equal(fewer, chosen[:2])  # Another round leaves the others as they were.


@pytest.mark.parametrize('size', [(1, 1), (2, 5)])
def test_the_smallest_images_go_through(size) -> None:
    images = images_of(28, 3, *size)
    for family in FAMILIES.values():
        assert family(images, torch.arange(28), 0, 0).shape == images.shape
