"""From stored uint8 to what the model sees: the replayable augmentation, then normalisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.data.section import DataSection
from composer_kd.functional.augment import AUGMENT_VERSION, augment, normalise
from composer_kd.functional.colour import COLOUR_JITTER_VERSION, colour_jitter
from composer_kd.functional.rand_augment import RAND_AUGMENT_VERSION, rand_augment
from composer_kd.functional.resized_crop import RATIO, RESIZED_CROP_VERSION, SCALE, resized_crop

__all__ = ['Augmentation', 'Batch', 'ColourJitter', 'Prepare', 'RandAugment']

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class ColourJitter:
    """The arguments of :func:`~composer_kd.functional.colour_jitter`, and its version."""

    version: int = COLOUR_JITTER_VERSION
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __call__(self, images: Tensor, ids: Tensor, views: Tensor, seed: int) -> Tensor:
        return colour_jitter(images, ids, views, seed, self.brightness, self.contrast, self.saturation, self.hue)


@dataclass(frozen=True)
class RandAugment:
    """The arguments of :func:`~composer_kd.functional.rand_augment`, and its version."""

    version: int = RAND_AUGMENT_VERSION
    operations: int = 2
    magnitude: int = 9

    def __call__(self, images: Tensor, ids: Tensor, views: Tensor, seed: int) -> Tensor:
        return rand_augment(images, ids, views, seed, self.operations, self.magnitude)


@dataclass(frozen=True)
class Augmentation:
    """Names a family of views: two runs with equal augmentations see the same pixels for the same key.

    Attributes:
        name: Of what comes first: ``'crop_flip'``, ``'resized_crop'``, or ``'none'``: every view is the stored image.
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
    def of(cls, section: DataSection) -> Augmentation:
        """The one that a ``data:`` section describes; what changes no image is ``none``."""
        given, box = section.augment, {}
        name, version, padding = 'crop_flip', AUGMENT_VERSION, section.padding
        if given.name == 'resized_crop':
            name, version, padding = 'resized_crop', RESIZED_CROP_VERSION, 0
            box = {'scale': (given.scale[0], given.scale[1]), 'ratio': (given.ratio[0], given.ratio[1])}
        parts: dict[str, Any] = {}
        if given.colour_jitter is not None:
            parts['colour_jitter'] = ColourJitter(**given.colour_jitter.model_dump())
        if given.rand_augment is not None:
            parts['rand_augment'] = RandAugment(**given.rand_augment.model_dump())
        if given.name == 'none' or not (padding or section.flip or box or parts):
            return cls.none()
        return cls(name, version, section.augment_seed, padding, section.flip, **box, **parts)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Augmentation:
        """The augmentation that a manifest names; what this version cannot make again is refused."""
        try:
            made = {name: _MADE_OF_JSON.get(name, _as_it_is)(value) for name, value in mapping.items()}
            found = cls(**made)
        except (AttributeError, TypeError, ValueError):
            found = None
        if found is None or any(_VERSIONS.get(name) != version for name, version in found.versions.items()):
            raise UserError(f'the augmentation {mapping} is not of this version of composer_kd; use the other one')
        return found

    def as_mapping(self) -> dict[str, Any]:
        """What a manifest says of it, as JSON gives it back; what is not there is left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(map(float, value)) if isinstance(value, tuple) else value for name, value in values.items()}

    @property
    def versions(self) -> dict[str, int]:
        """The version of each of its parts."""
        parts = {'colour_jitter': self.colour_jitter, 'rand_augment': self.rand_augment}
        return {self.name: self.version, **{name: part.version for name, part in parts.items() if part is not None}}

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """The augmented uint8 images that ``keys`` [B, 2] name; view -1 is the image as stored."""
        if self.name == 'none':
            return images
        ids, views = keys.unbind(1)
        if self.name == 'resized_crop':
            images = resized_crop(images, ids, views, self.seed, self.scale or SCALE, self.ratio or RATIO, self.flip)
        else:
            images = augment(images, ids, views, self.seed, self.padding, self.flip)
        for part in (self.colour_jitter, self.rand_augment):
            if part is not None:
                images = part(images, ids, views, self.seed)
        return images


_VERSIONS = {
    'none': 1,
    'crop_flip': AUGMENT_VERSION,
    'resized_crop': RESIZED_CROP_VERSION,
    'colour_jitter': COLOUR_JITTER_VERSION,
    'rand_augment': RAND_AUGMENT_VERSION,
}


def _as_it_is(value: Any) -> Any:
    return value


_MADE_OF_JSON: dict[str, Callable[[Any], Any]] = {
    'scale': tuple,
    'ratio': tuple,
    'colour_jitter': lambda arguments: ColourJitter(**arguments),
    'rand_augment': lambda arguments: RandAugment(**arguments),
}


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
