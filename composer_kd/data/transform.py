"""From stored uint8 to what the model sees: the replayable augmentation, then normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from composer_kd.errors import UserError
from composer_kd.functional.augment import AUGMENT_VERSION, augment, normalise
from composer_kd.functional.colour import COLOUR_JITTER_VERSION, colour_jitter
from composer_kd.functional.rand_augment import RAND_AUGMENT_VERSION, rand_augment
from composer_kd.functional.resized_crop import RATIO, RESIZED_CROP_VERSION, SCALE, resized_crop

__all__ = ['Augmentation', 'Batch', 'ColourJitter', 'Prepare', 'RandAugment']

Batch = tuple[Tensor, Tensor, Tensor]

_VERSIONS = {'none': 1, 'crop_flip': AUGMENT_VERSION, 'resized_crop': RESIZED_CROP_VERSION}


@dataclass(frozen=True)
class ColourJitter:
    """The arguments of :func:`~composer_kd.functional.colour_jitter`, and its version."""

    version: int = COLOUR_JITTER_VERSION
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1


@dataclass(frozen=True)
class RandAugment:
    """The arguments of :func:`~composer_kd.functional.rand_augment`, and its version."""

    version: int = RAND_AUGMENT_VERSION
    operations: int = 2
    magnitude: int = 9


@dataclass(frozen=True)
class Augmentation:
    """Names a family of views: two runs with equal augmentations see the same pixels for the same key.

    Attributes:
        name: Of what comes first: ``'crop_flip'``, ``'resized_crop'``, or ``'none'`` when every view is the stored image.
        version: Of the algorithm behind the name.
        seed: Of the family.
        padding: Width of the zero border that crops are taken from; 0 for resized crops.
        flip: Whether half of the views are mirrored.
        scale: Of resized crops: the smallest and the largest area, as a part of the image's.
        ratio: Of resized crops: the smallest and the largest width, as a multiple of the height.
        colour_jitter: What comes second, if anything.
        rand_augment: What comes last, if anything.
    """

    name: str = 'crop_flip'
    version: int = AUGMENT_VERSION
    seed: int = 0
    padding: int = 4
    flip: bool = True
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] | None = None
    colour_jitter: ColourJitter | None = None
    rand_augment: RandAugment | None = None

    @classmethod
    def none(cls) -> Augmentation:
        return cls(name='none', version=1, seed=0, padding=0, flip=False)

    @classmethod
    def resized_crop(
        cls,
        seed: int = 0,
        flip: bool = True,
        scale: tuple[float, float] = SCALE,
        ratio: tuple[float, float] = RATIO,
        colour_jitter: ColourJitter | None = None,
        rand_augment: RandAugment | None = None,
    ) -> Augmentation:
        return cls('resized_crop', RESIZED_CROP_VERSION, seed, 0, flip, scale, ratio, colour_jitter, rand_augment)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Augmentation:
        """The augmentation that a manifest names; one that this version does not know is refused."""
        values = dict(mapping)
        parts = {'colour_jitter': ColourJitter, 'rand_augment': RandAugment}
        try:
            for name in ('scale', 'ratio'):
                if name in values:
                    values[name] = tuple(values[name])
            for name, part in parts.items():
                if name in values:
                    values[name] = part(**values[name])
                    known = values[name].version == part().version
                    if not known:
                        raise ValueError
            found = cls(**values)
            if _VERSIONS.get(found.name) != found.version:
                raise ValueError
        except (TypeError, ValueError):
            raise UserError(
                f'the augmentation {mapping} is of another version of composer_kd, or of none; use that one'
            ) from None
        return found

    def as_mapping(self) -> dict[str, Any]:
        """What a manifest says of it, as JSON gives it back; what is not there is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ('scale', 'ratio'):
            values[name] = values[name] and [float(end) for end in values[name]]
        for name in ('colour_jitter', 'rand_augment'):
            values[name] = values[name] and asdict(values[name])
        return {name: value for name, value in values.items() if value is not None}

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """The augmented uint8 images that ``keys`` [B, 2] name; view -1 is the image as stored."""
        if self.name == 'none':
            return images
        ids, views = keys.unbind(1)
        if self.name == 'resized_crop':
            images = resized_crop(images, ids, views, self.seed, self.scale or SCALE, self.ratio or RATIO, self.flip)
        else:
            images = augment(images, ids, views, self.seed, self.padding, self.flip)
        if self.colour_jitter is not None:
            each = self.colour_jitter
            images = colour_jitter(
                images, ids, views, self.seed, each.brightness, each.contrast, each.saturation, each.hue
            )
        if self.rand_augment is not None:
            each = self.rand_augment
            images = rand_augment(images, ids, views, self.seed, each.operations, each.magnitude)
        return images


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
