"""The fifteen corruptions: the protocol's constants against independent formulas, and pixels that ids alone name."""

from __future__ import annotations

import colorsys
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from composer_kd.core.errors import UserError
from composer_kd.functional.corruptions import CORRUPTIONS, corrupt, noise, severities_of
from composer_kd.functional.corruptions.blur import zoom_blur, zoomed
from composer_kd.functional.corruptions.digital import displacement, elastic_transform
from composer_kd.functional.corruptions.draws import Draws
from composer_kd.functional.corruptions.noise import shot_noise
from composer_kd.functional.corruptions.plasma import plasma
from composer_kd.functional.corruptions.sums import moved

every_kind = pytest.mark.parametrize('kind', CORRUPTIONS)
SEVERITIES = (1, 2, 3, 4, 5)


def images_of(count: int, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Smooth waves with some edges, as photographs have them; every fifth image is black or white."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(height).view(1, 1, -1, 1) / 6
    columns = torch.arange(width).view(1, 1, 1, -1) / 5
    phase, speed = torch.rand(2, count, channels, 1, 1, generator=generator)
    waves = torch.sin(rows * (0.5 + speed) + 6 * phase) + torch.cos(columns + 6 * speed)
    images = (waves.sign() * 30 + waves * 40 + 128).clamp(0, 255).to(torch.uint8)
    images[4::10], images[9::10] = 0, 255
    return images


def flat(level: int, count: int = 64) -> torch.Tensor:
    return torch.full((count, 3, 32, 32), level, dtype=torch.uint8)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one.double() - other.double()) ** 2).mean().item()


# -- keys -------------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize('channels', [1, 3])
def test_a_sample_is_the_same_in_any_company(kind: str, channels: int) -> None:
    images, ids = images_of(20, channels, 28, 24), torch.arange(20) * 7919
    kept = images.clone()
    whole = corrupt(images, ids, kind, 4, 1)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(corrupt(images[order], ids[order], kind, 4, 1), whole[order])
    halves = [corrupt(images[rank::2], ids[rank::2], kind, 4, 1) for rank in (0, 1)]  # as two ranks would
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)
    assert torch.equal(corrupt(images[3:4], ids[3:4], kind, 4, 1), whole[3:4])
    assert torch.equal(images, kept)


DRAWN = ('gaussian_noise', 'shot_noise', 'impulse_noise', 'glass_blur', 'motion_blur', 'snow', 'frost', 'fog',
         'elastic_transform')  # fmt: skip


@every_kind
def test_only_what_is_random_depends_on_seed_and_id(kind: str) -> None:
    images, ids = images_of(4), torch.arange(4)
    first = corrupt(images, ids, kind, 5, 0)
    for other in (corrupt(images, ids, kind, 5, 1), corrupt(images, ids + 1, kind, 5, 0)):
        assert torch.equal(first, other) == (kind not in DRAWN)


def test_the_draws_are_these_for_ever() -> None:
    drawn = Draws(3, 8, torch.tensor([0, 41])).uniform(2, 2)
    golden = [[0.5683437068548062, 0.5493868960208091], [0.24809427719881205, 0.4488071153126282]]
    assert drawn.tolist() == golden


# -- severities -------------------------------------------------------------------------------------------------------

# By the published constants, the others are not further from the clean image at every severity.
BY_DISTANCE = sorted(set(CORRUPTIONS) - {'glass_blur', 'motion_blur', 'frost', 'elastic_transform'})


@pytest.mark.parametrize('kind', BY_DISTANCE)
@pytest.mark.parametrize('channels', [1, 3])
def test_the_distance_to_the_clean_image_grows(kind: str, channels: int) -> None:
    images, ids = images_of(60, channels), torch.arange(60)
    far = [distance(corrupt(images, ids, kind, severity), images) for severity in SEVERITIES]
    assert far[0] > 0
    assert all(low < high for low, high in pairwise(far)), far


def test_motion_grows_but_between_three_and_four() -> None:
    images, ids = images_of(60), torch.arange(60)
    shown = [corrupt(images, ids, 'motion_blur', severity) for severity in SEVERITIES]
    far = [distance(one, images) for one in shown]
    assert far[0] < far[1] < far[2] < far[4]
    assert torch.equal(shown[2], shown[3])  # Radius 6 or 8: neither cuts a Gaussian of two pixels off.


def test_frost_leaves_less_of_the_image() -> None:
    images, ids = images_of(60), torch.arange(60)
    images = images[[row for row in range(60) if row % 5 != 4]]  # what has edges
    ids = ids[: len(images)]
    alike = []
    for severity in SEVERITIES:
        frosted = corrupt(images, ids, 'frost', severity).double().flatten(1)
        both = [part - part.mean(1, keepdim=True) for part in (frosted, images.double().flatten(1))]
        alike.append(torch.cosine_similarity(*both).mean().item())
    assert all(high > low for high, low in pairwise(alike)), alike


def test_glass_moves_more_pixels_the_second_time() -> None:
    images, ids = images_of(60), torch.arange(60)
    far = [distance(corrupt(images, ids, 'glass_blur', severity), images) for severity in SEVERITIES]
    assert min(far) > 0
    assert far[3] > far[1]  # the same light blur, once and twice
    assert far[4] > far[2]


def test_the_elastic_part_grows_while_the_affine_one_shrinks() -> None:
    draws = Draws(0, 12, torch.arange(40))
    reaches = [constants[:2] for constants in CORRUPTIONS['elastic_transform'].constants]
    moves = [displacement(draws, 32, 32, *reach).square().mean().sqrt().item() for reach in reaches]
    assert moves[0] == 0
    assert all(low < high for low, high in pairwise(moves)), moves
    assert 0.3 < moves[4] < 0.8  # pixels


@every_kind
def test_severities_between_two(kind: str) -> None:
    images, ids = images_of(200)[:, :, :8, :8], torch.arange(200)
    between = corrupt(images, ids, kind, 2.5)
    if CORRUPTIONS[kind].none is not None:
        ends = [distance(corrupt(images, ids, kind, severity), images) for severity in (2, 2.5, 3)]
        assert ends[0] < ends[1] < ends[2] or kind == 'frost'
        assert torch.equal(corrupt(images, ids, kind, 0), images)
        return
    worse = severities_of(ids, 2.5, 0) == 3
    assert 70 < worse.sum() < 130
    assert torch.equal(between[worse], corrupt(images, ids, kind, 3)[worse])
    assert torch.equal(between[~worse], corrupt(images, ids, kind, 2)[~worse])
    some = corrupt(images, ids, kind, 0.25)
    assert torch.equal(some[severities_of(ids, 0.25, 0) == 0], images[severities_of(ids, 0.25, 0) == 0])


def test_a_higher_share_contains_a_lower_one() -> None:
    ids = torch.arange(500)
    shares = [severities_of(ids, 1 + share, 7) == 2 for share in (0.0, 0.2, 0.6, 0.9)]
    assert not shares[0].any()
    assert all((high | ~low).all() for low, high in pairwise(shares))


# -- the constants, kind by kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(('severity', 'scale'), enumerate([0.04, 0.06, 0.08, 0.09, 0.10], 1))
def test_gaussian_noise_has_the_published_scale(severity: int, scale: float) -> None:
    noise = corrupt(flat(128), torch.arange(64), 'gaussian_noise', severity).double() - 128
    assert noise.std().item() == pytest.approx(255 * scale, rel=0.01)
    assert abs(noise.mean().item()) < 0.3


@pytest.mark.parametrize('level', [0, 1, 9, 60, 255])
def test_many_photons_are_counted_as_few_are(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(variance: float) -> torch.Tensor:
        return shot_noise(flat(level) / 255, Draws(0, 1, torch.arange(64)), variance).double()

    exact = shown(1 / 2000)
    monkeypatch.setattr(noise, '_FINEST', 1.0)
    counts = (shown(1 / 2000) - exact).abs() * 2000
    assert counts.max() <= 1.001, 'one photon, an eighth of a grey level'
    assert counts.mean() < 0.05
    # As the noise goes to nothing, so does what it does; the tables of that would have millions of columns.
    finer = shown(1e-7)
    assert finer.var().item() == pytest.approx(level / 255 * 1e-7, rel=0.05, abs=1e-12)
    assert finer.mean().item() == pytest.approx(level / 255, abs=1e-5)


@pytest.mark.parametrize(('severity', 'photons'), enumerate([500, 250, 100, 75, 50], 1))
def test_shot_noise_counts_the_published_photons(severity: int, photons: int) -> None:
    variance = CORRUPTIONS['shot_noise'].constants[severity - 1][0]
    for level in (20, 100):
        seen = shot_noise(flat(level) / 255, Draws(0, 1, torch.arange(64)), variance).double() * photons
        assert torch.allclose(seen, seen.round(), atol=1e-3)
        # Photons are a Poisson count: its mean is its variance, and one over their root its skewness.
        expected = level / 255 * photons
        assert seen.mean().item() == pytest.approx(expected, rel=0.01)
        assert seen.var().item() == pytest.approx(expected, rel=0.02)
        third = ((seen - seen.mean()) ** 3).mean() / seen.var() ** 1.5
        assert third.item() == pytest.approx(expected**-0.5, abs=0.03)
    assert corrupt(flat(0), torch.arange(64), 'shot_noise', severity).max() == 0


@pytest.mark.parametrize(('severity', 'share'), enumerate([0.01, 0.02, 0.03, 0.05, 0.07], 1))
def test_impulses_are_black_or_white_in_the_published_share(severity: int, share: float) -> None:
    seen = corrupt(flat(128), torch.arange(64), 'impulse_noise', severity)
    assert set(seen.unique().tolist()) == {0, 128, 255}
    assert (seen != 128).double().mean().item() == pytest.approx(share, rel=0.06)
    assert (seen == 0).sum().item() == pytest.approx((seen == 255).sum().item(), rel=0.1)


def test_a_defocused_point_is_its_disc() -> None:
    point = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    point[0, 0, 10, 20] = 255
    cross = corrupt(point, torch.arange(1), 'defocus_blur', 4)[0, 0]
    assert cross.nonzero().tolist() == [[9, 20], [10, 19], [10, 20], [10, 21], [11, 20]]
    assert cross.unique().tolist() == [0, 51]  # a fifth each
    square = corrupt(point, torch.arange(1), 'defocus_blur', 5)[0, 0]
    assert (square[9:12, 19:22] == 28).all()  # 255 / 9
    assert int(square.sum()) == 9 * 28
    # A single pixel under a 3 x 3 Gaussian of 0.4, by hand: its one-sided weight is exp(-3.125).
    side = np.exp(-1 / (2 * 0.4**2))
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    soft = corrupt(point, torch.arange(1), 'defocus_blur', 1)[0, 0, 9:12, 19:22]
    assert np.array_equal(soft.numpy(), np.rint(255 * np.outer(weights, weights)))


def test_glass_takes_every_pixel_from_above_or_from_the_left() -> None:
    image = torch.arange(32 * 32).remainder(251).to(torch.uint8).view(1, 1, 32, 32)
    seen = corrupt(image, torch.tensor([5]), 'glass_blur', 1)[0, 0]  # its Gaussian of 0.05 is a point
    before = image[0, 0]
    assert torch.equal(seen[:2], before[:2])
    assert torch.equal(seen[:, :2], before[:, :2])
    sources = torch.stack([before[2 - up : 32 - up, 2 - left : 32 - left] for up in (0, 1) for left in (0, 1)])
    taken = sources == seen[2:, 2:]
    assert taken.any(0).all()
    assert all(0.2 < share < 0.3 for share in taken.double().mean((1, 2)).tolist())


def test_motion_is_half_a_gaussian_along_a_line() -> None:
    point = torch.zeros(3, 1, 31, 31)
    point[:, :, 15, 15] = 1
    weights = np.exp(-(np.arange(13) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    across, down, steep = moved(point, 6, 1.5, torch.tensor([0.0, 90.0, 45.0]))[:, 0].double().numpy()
    # Each pixel looks ahead along the line, so a point is drawn out backwards.
    assert np.allclose(across[15, 15 - 5 : 16][::-1], weights[:6], atol=1e-3)
    assert np.allclose(down[15 - 5 : 16, 15][::-1], weights[:6], atol=1e-3)
    assert across.sum() == pytest.approx(1, abs=1e-6)
    assert np.flatnonzero(across.sum(1) > 1e-6).tolist() == [15]
    # At 45 degrees one step and two lead to (1, 1), three to (2, 2): the nearest pixels.
    assert np.allclose(
        [steep[15, 15], steep[14, 14], steep[13, 13]], [weights[0], weights[1] + weights[2], weights[3]], atol=1e-3
    )


def test_zoom_blur_is_the_mean_of_enlargements() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 32, 32, generator=generator)

    def enlarged(pixels: np.ndarray, factor: float) -> np.ndarray:
        cropped = int(np.ceil(32 / factor))
        size = round(cropped * factor)
        start = (32 - cropped) // 2
        places = start + np.arange(size) * (cropped - 1) / (size - 1)
        for axis in (0, 1):
            pixels = np.apply_along_axis(lambda line: np.interp(places, np.arange(32), line), axis, pixels)
        trim = (size - 32) // 2
        return pixels[trim : trim + 32, trim : trim + 32]

    pixels = image[0, 0].double().numpy()
    for factor in (1.25, 1.75, 2.25):
        assert np.allclose(zoomed(image, factor)[0, 0], enlarged(pixels, factor), atol=1e-5)
    every = [pixels, *(enlarged(pixels, 1 + step / 100) for step in range(12))]  # severity 2: 1.00 to 1.11
    ours = zoom_blur(image, Draws(0, 6, torch.arange(1)), 12)[0, 0]
    assert np.allclose(ours, np.mean(every, axis=0), atol=1e-5)
    assert [int(row[0]) for row in CORRUPTIONS['zoom_blur'].constants] == [
        len(np.arange(1, end, 0.01)) for end in (1.06, 1.11, 1.16, 1.21, 1.26)
    ]


def test_snow_whitens_where_flakes_are() -> None:
    seen = corrupt(flat(60), torch.arange(64), 'snow', 1)
    sky = round(60 * 0.95 + 0.05 * (60 * 1.5 + 127.5))  # no flake there
    values, counts = seen.unique(return_counts=True)
    assert int(values[counts.argmax()]) == sky == int(seen.min())
    assert 0.02 < (seen > sky + 10).double().mean() < 0.4
    # The flakes are there twice, once upside down.
    flakes = seen.int() - sky
    assert (flakes - flakes.flip(2, 3)).abs().max() <= 1


def test_clouds_are_the_means_of_their_corners() -> None:
    still = plasma(Draws(0, 9, torch.arange(3)), 0, 32, 32, 1e6)  # only the first round draws: the rest are means
    assert (still.min(), still.max()) == (0, 1)
    height = still[0, 0].double()
    middle = (height[0, 0] + height[0, 16] + height[16, 0] + height[16, 16]) / 4
    assert height[8, 8].item() == pytest.approx(middle.item(), abs=1e-6)
    rough = plasma(Draws(0, 9, torch.arange(3)), 0, 20, 30, 1.75)
    assert rough.shape == (3, 1, 20, 30)
    smooth = plasma(Draws(0, 9, torch.arange(3)), 0, 20, 30, 3.0)
    assert rough.diff(dim=3).abs().mean() > smooth.diff(dim=3).abs().mean()


def test_fog_keeps_the_largest_value() -> None:
    image = flat(100, 8)
    image[:, 0, 0, 0] = 200
    cloud = plasma(Draws(0, 9, torch.arange(8)), 0, 32, 32, 2.0)
    expected = (image.double() / 255 + cloud) * (200 / 255) / (200 / 255 + 1)
    seen = corrupt(image, torch.arange(8), 'fog', 4).double()
    assert (seen - 255 * expected).abs().max() <= 0.51
    assert corrupt(flat(0, 8), torch.arange(8), 'fog', 5).max() == 0


@pytest.mark.parametrize(('severity', 'more'), enumerate([0.05, 0.1, 0.15, 0.2, 0.3], 1))
def test_brightness_raises_the_value(severity: int, more: float) -> None:
    colours = torch.tensor([[200, 30, 90], [0, 0, 0], [10, 240, 250], [77, 77, 77]], dtype=torch.uint8)
    seen = corrupt(colours.view(4, 3, 1, 1), torch.arange(4), 'brightness', severity).view(4, 3)
    for colour, ours in zip(colours.tolist(), seen.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
        theirs = colorsys.hsv_to_rgb(hue, saturation, min(1, value + more))
        assert ours == pytest.approx([255 * channel for channel in theirs], abs=0.51)


@pytest.mark.parametrize(('severity', 'factor'), enumerate([0.75, 0.5, 0.4, 0.3, 0.15], 1))
def test_contrast_shrinks_towards_each_channels_mean(severity: int, factor: float) -> None:
    images = images_of(4)
    mean = images.double().mean((2, 3), keepdim=True)
    seen = corrupt(images, torch.arange(4), 'contrast', severity).double()
    assert (seen - (mean + factor * (images.double() - mean))).abs().max() <= 0.51


def test_elastic_without_its_constants_is_nothing_and_affine_maps_lines_to_lines() -> None:
    draws = Draws(0, 12, torch.arange(5))
    images = torch.rand(5, 1, 30, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(elastic_transform(images, draws, 0, 0, 0), images)
    ramp = (torch.arange(40.0) / 40).expand(5, 1, 30, 40)
    turned = elastic_transform(ramp, draws, 0, 0, 0.05)[:, 0, 6:24, 8:32].double()
    assert not torch.allclose(turned, ramp[:, 0, 6:24, 8:32].double(), atol=1e-3)
    for axis in (1, 2):
        assert turned.diff(n=2, dim=axis).abs().max() < 1e-5


def test_elastic_moves_three_points_where_they_were_drawn() -> None:
    """At a corner of the triangle stands, after the move, what was there before, wherever it was drawn to."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')
    coordinates = torch.stack([rows, columns]).view(2, 1, 32, 32)
    ids = torch.tensor([9, 9])  # One draw for both, so that rows and columns move together.
    draws = Draws(0, 12, ids)
    seen = elastic_transform(coordinates, draws, 0, 0, 0.05)[:, 0].double()
    corners = torch.tensor([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])  # x, y
    moved_to = corners + draws.uniform(0, 3, 2, low=-1.6, high=1.6)[0]
    for (x, y), (to_x, to_y) in zip(corners.tolist(), moved_to.tolist(), strict=True):
        top, left = int(to_y), int(to_x)
        below, right = to_y - top, to_x - left
        square = seen[:, top : top + 2, left : left + 2]
        weights = torch.tensor([[(1 - below) * (1 - right), (1 - below) * right], [below * (1 - right), below * right]])
        found = (square * weights).sum((1, 2))
        assert found.tolist() == pytest.approx([y, x], abs=1e-3)


@pytest.mark.parametrize('channels', [1, 3])
def test_pixelate_and_jpeg_are_pillows(channels: int) -> None:
    images = images_of(3, channels, 32, 24)

    def by_hand(change) -> torch.Tensor:
        pictures = [image[0] if channels == 1 else image.transpose(1, 2, 0) for image in images.numpy()]
        changed = [np.asarray(change(Image.fromarray(picture))) for picture in pictures]
        return torch.stack([torch.from_numpy(one).view(32, 24, channels).permute(2, 0, 1) for one in changed])

    def compressed(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, 'JPEG', quality=58)
        return Image.open(file)

    box = Image.Resampling.BOX
    fewer = by_hand(lambda image: image.resize((15, 20), box).resize((24, 32), box))
    assert torch.equal(corrupt(images, torch.arange(3), 'pixelate', 5), fewer)
    assert torch.equal(corrupt(images, torch.arange(3), 'jpeg_compression', 3), by_hand(compressed))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('images', 'kind', 'severity', 'message'),
    [
        (flat(0, 1), 'fogg', 3, r"^'fogg' is not a kind of corruption; did you mean 'fog'\?"),
        (flat(0, 1), 'fog', 6, r'^severity 6: severities of a corruption are 1 to 5$'),
        (flat(0, 1), 'fog', -1, r'^severity -1: '),
        (flat(0, 1).float() / 255, 'fog', 3, r'uint8 images \[B, C, H, W\] from 0 to 255 .*, these are float32'),
        (flat(0, 1)[:, :2], 'fog', 3, r'with 1 or 3 channels, these are uint8 \[1, 2, 32, 32\]$'),
        (flat(0, 1)[0], 'fog', 3, r'these are uint8 \[3, 32, 32\]$'),
    ],
)
def test_refusals_are_one_line(images: torch.Tensor, kind: str, severity: float, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        corrupt(images, torch.arange(1), kind, severity)
    assert '\n' not in str(caught.value)
