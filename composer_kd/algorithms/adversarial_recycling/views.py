"""Deltas between the stored image and its views."""

from __future__ import annotations

from torch import Tensor

from composer_kd.data.transform import Augmentation
from composer_kd.errors import UserError
from composer_kd.functional.augment import crop_of, cropped
from composer_kd.functional.uncrop import uncropped, visible

__all__ = ['Views']


class Views:
    """Where in a view each pixel of the stored image is: for deltas that are to serve every view.

    Args:
        augmentation: Whose views; those that interpolate or change colours have no such place, and are refused.
        owner: How the error line calls who asks.
    """

    def __init__(self, augmentation: Augmentation, owner: str):
        strange = [name for name in augmentation.versions if name not in ('none', 'crop_flip')]
        if strange:
            raise UserError(
                f'{owner}: the views of {strange[0]} do not show the pixels of the stored image one by one, so an '
                f'example made in one serves no other; use data.augment: crop_flip or none, without colours'
            )
        self._augmentation = augmentation

    def seen(self, deltas: Tensor, keys: Tensor) -> Tensor:
        """Deltas of stored images as these views show them; the border has none."""
        of = self._augmentation
        return deltas if of.name == 'none' else cropped(deltas, self._crop(keys), of.padding)

    def put_back(self, seen: Tensor, deltas: Tensor, keys: Tensor) -> Tensor:
        """``deltas`` of stored images with what these views see of them replaced."""
        of = self._augmentation
        return seen if of.name == 'none' else uncropped(seen, deltas, self._crop(keys), of.padding)

    def image(self, like: Tensor, keys: Tensor) -> Tensor | None:
        """Which pixels of the views are the image's and not the border's; ``None`` for all."""
        of = self._augmentation
        if of.name == 'none' or of.padding == 0:
            return None
        return visible(self._crop(keys), of.padding, *like.shape[2:])

    def _crop(self, keys: Tensor):
        ids, views = keys.unbind(1)
        return crop_of(ids, views, self._augmentation.seed, self._augmentation.padding, self._augmentation.flip)
