"""From stored uint8 to what the model sees: the replayable augmentation, then normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from composer_kd.functional.augment import AUGMENT_VERSION, augment, normalise

__all__ = ['Augmentation', 'Batch', 'Prepare']

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Names a family of views: two runs with equal augmentations see the same pixels for the same key.

    Attributes:
        name: ``'crop_flip'``, or ``'none'`` when every view is the stored image.
        version: Of the algorithm behind the name.
        seed: Of the family.
        padding: Width of the zero border that crops are taken from.
        flip: Whether half of the views are mirrored.
    """

    name: str = 'crop_flip'
    version: int = AUGMENT_VERSION
    seed: int = 0
    padding: int = 4
    flip: bool = True

    @classmethod
    def none(cls) -> Augmentation:
        return cls(name='none', version=1, seed=0, padding=0, flip=False)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """The augmented uint8 images that ``keys`` [B, 2] name; view -1 is the image as stored."""
        if self.name == 'none':
            return images
        return augment(images, keys[:, 0], keys[:, 1], self.seed, self.padding, self.flip)


class Prepare:
    """Batch in, batch out: ``(uint8 images, labels, keys)`` to ``(normalised float images, labels, keys)``.

    Stands in ``DataSpec.microbatch_transforms``, after the move to the device, or in the loader as its collate.
    """

    def __init__(self, augmentation: Augmentation, mean: Sequence[float], std: Sequence[float]):
        self.augmentation = augmentation
        self.mean = tuple(mean)
        self.std = tuple(std)

    def __call__(self, batch: Batch) -> Batch:
        images, labels, keys = batch
        return normalise(self.augmentation(images, keys), self.mean, self.std), labels, keys

    def __repr__(self) -> str:
        return f'Prepare({self.augmentation!r}, mean={self.mean}, std={self.std})'
