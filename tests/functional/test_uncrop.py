"""Crops undone: by hand, and as the inverse of what the augmentation does, for every view."""

from __future__ import annotations

import torch

from composer_kd.functional import augment, uncropped, visible
from composer_kd.functional.augment import Crop, crop_of, cropped

IDS = torch.tensor([5, 17, 400, 401, 402, 403])


def stored_images(size: int = 6) -> torch.Tensor:
    return torch.randint(1, 256, (len(IDS), 3, size, size + 2), generator=torch.Generator().manual_seed(0)).byte()


def test_by_hand() -> None:
    # One row of four pixels, padding 1: the crop begins in the border, so the view shows 0 and then the first three.
    crop = Crop(torch.tensor([1, 1]), torch.tensor([0, 0]), torch.tensor([False, True]))
    stored = torch.tensor([[10, 20, 30, 40], [10, 20, 30, 40]], dtype=torch.int8).view(2, 1, 1, 4)
    assert cropped(stored, crop, 1).view(2, 4).tolist() == [[0, 10, 20, 30], [30, 20, 10, 0]]
    seen = torch.tensor([[-1, -2, -3, -4], [-1, -2, -3, -4]], dtype=torch.int8).view(2, 1, 1, 4)
    # The border's value is nobody's; the fourth pixel, which no view shows, stays what it was.
    assert uncropped(seen, stored, crop, 1).view(2, 4).tolist() == [[-2, -3, -4, 40], [-3, -2, -1, 40]]
    assert visible(crop, 1, 1, 4).view(2, 4).int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]


def test_a_pixel_of_the_stored_image_is_put_where_each_view_shows_it() -> None:
    images = stored_images()
    for view in range(12):
        crop = crop_of(IDS, torch.tensor(view), 3, 4, True)
        deltas = torch.zeros(images.shape, dtype=torch.int8)
        deltas[:, 1, 2, 3] = 7
        marked = images.clone()
        marked[:, 1, 2, 3] = 0
        shows = augment(images, IDS, view, 3) != augment(marked, IDS, view, 3)
        assert torch.equal(cropped(deltas, crop, 4) == 7, shows)
        back = uncropped(cropped(deltas, crop, 4), torch.zeros_like(deltas), crop, 4)
        assert torch.equal(back.flatten(1).any(dim=1), shows.flatten(1).any(dim=1))
        assert torch.equal(back, torch.where(shows.flatten(1).any(dim=1).view(-1, 1, 1, 1), deltas, 0))


def test_what_is_seen_is_put_back_and_the_rest_stays() -> None:
    images = stored_images()
    for view in range(12):
        crop = crop_of(IDS, torch.tensor(view), 3, 4, True)
        view_of = augment(images, IDS, view, 3)
        assert torch.equal(view_of, cropped(images, crop, 4))
        assert torch.equal(visible(crop, 4, 6, 8).expand_as(images), view_of > 0), 'no stored pixel is 0'
        assert torch.equal(uncropped(view_of, images, crop, 4), images)
        other = torch.full_like(images, 0)
        back = uncropped(view_of, other, crop, 4)
        assert int((back > 0).sum()) == int((view_of > 0).sum())
        assert torch.equal(back[back > 0], images[back > 0])


def test_the_stored_view_is_the_image_itself() -> None:
    images = stored_images()
    crop = crop_of(IDS, torch.tensor(-1), 3, 4, True)
    assert torch.equal(cropped(images, crop, 4), images)
    assert bool(visible(crop, 4, 6, 8).all())
