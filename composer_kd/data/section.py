"""``data.augment`` in a YAML file: what happens to a training image, by the key that it comes with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import MAY_CHANGE, BatchSize, Count, PathText, Section, Seed
from composer_kd.data.drift.base import Drifts
from composer_kd.storage.fetch import default_cache

__all__ = [
    'AUGMENTATIONS',
    'SOURCES',
    'SYNTHETIC',
    'AugmentSection',
    'ColourJitterSection',
    'DataSection',
    'RandAugmentSection',
    'SyntheticSection',
]

AUGMENTATIONS = {
    'crop_flip': 'a crop out of a zero border, half of them mirrored: the default, or true',
    'resized_crop': 'a box of random size and shape, stretched to the size of the image, half of them mirrored',
    'none': 'the image as it is stored; or false',
    '..., colour_jitter': 'after either crop: brightness, contrast, saturation and hue',
    '..., rand_augment': 'last of all: some of fourteen operations, at one magnitude',
}
"""The families of views, and what may come after them."""

Reach = Annotated[float, Field(ge=0, le=10)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)]
Stretches = Annotated[list[Annotated[float, Field(ge=0.01, le=100)]], Field(min_length=2, max_length=2)]


class ColourJitterSection(Section):
    """How far factors may be from 1, and hues from their place."""

    brightness: Reach = 0.4
    """How far the factor of all pixels may be from 1."""
    contrast: Reach = 0.4
    """How far the factor of the distances from the mean grey may be from 1."""
    saturation: Reach = 0.4
    """How far the factor of the distances from a pixel's own grey may be from 1; grey images have none."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """How far hues turn either way, as a part of the circle, up to 0.5."""


class RandAugmentSection(Section):
    """How many operations each image goes through, and their magnitude."""

    operations: Annotated[int, Field(ge=1, le=14)] = 2
    """How many of the fourteen operations an image goes through, drawn with replacement."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """The magnitude of all operations, from 0 to 30."""


class AugmentSection(Section):
    """A family of views. ``true`` is ``crop_flip``, ``false`` is ``none``, a name alone has its defaults."""

    name: Literal['none', 'crop_flip', 'resized_crop'] = 'crop_flip'
    """`crop_flip`, `resized_crop` (a box of random size and shape, stretched to the image's size) or `none`."""
    scale: Shares = Field(default_factory=lambda: [0.08, 1.0])
    """For `resized_crop`: the smallest and the largest area of a box, as a part of the image's."""
    ratio: Stretches = Field(default_factory=lambda: [3 / 4, 4 / 3])
    """For `resized_crop`: the smallest and the largest width of a box, as a multiple of its height."""
    colour_jitter: ColourJitterSection | None = None
    """Then [change colours](#dataaugmentcolour_jitter); `true` sets all defaults."""
    rand_augment: RandAugmentSection | None = None
    """Last, apply [random operations](#dataaugmentrand_augment); `true` sets all defaults."""

    @model_validator(mode='before')
    @classmethod
    def _shortened(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {'name': 'crop_flip' if value else 'none'}
        if value in ('colour_jitter', 'rand_augment'):
            raise ValueError(f'{value} comes after a family of views; write {{{value}: true}}')
        if isinstance(value, str):
            return {'name': value}
        if not isinstance(value, (dict, cls)):
            raise ValueError('expected true, false, a name or a mapping with a name')
        return value

    @field_validator('colour_jitter', 'rand_augment', mode='before')
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @field_validator('scale', 'ratio')
    @classmethod
    def _in_order(cls, value: list[float]) -> list[float]:
        if value[0] > value[1]:
            raise ValueError('the smaller end comes first')
        return value

    @model_validator(mode='after')
    def _fitting(self) -> AugmentSection:
        if self.name == 'none' and (self.colour_jitter or self.rand_augment):
            raise ValueError(
                'none leaves images as they are stored; for other operations alone use crop_flip with data.padding: 0 '
                'and data.flip: false'
            )
        stray = sorted({'scale', 'ratio'} & self.model_fields_set)
        if self.name != 'resized_crop' and stray:
            raise ValueError(f'{stray[0]} belongs to resized_crop; leave it out, or use that name')
        return self

    @model_serializer
    def _as_written(self) -> bool | dict[str, Any]:
        """What was ``true`` or ``false`` stays so; a run that was begun before there were names goes on."""
        boxes = {'scale': self.scale, 'ratio': self.ratio} if self.name == 'resized_crop' else {}
        parts = {'colour_jitter': self.colour_jitter, 'rand_augment': self.rand_augment}
        given = {name: part.model_dump() for name, part in parts.items() if part is not None}
        if not boxes and not given:
            return self.name == 'crop_flip'
        return {'name': self.name, **boxes, **given}

    def __str__(self) -> str:
        return str(self.model_dump())


SYNTHETIC = 'synthetic100'
SOURCES = {
    SYNTHETIC: 'drawn on the spot: 32x32, 100 classes in 20 superclasses; no download',
    'FOLDER': 'MDS shards, as composer-kd convert writes them',
    's3://..., gs://...': 'MDS shards on a remote that Streaming knows',
    'cifar10': '50,000 and 10,000 images of 10 classes: composer-kd convert cifar10 FOLDER',
    'cifar100': '50,000 and 10,000 images of 100 classes: composer-kd convert cifar100 FOLDER',
    'mnist': '60,000 and 10,000 grey digits: composer-kd convert mnist FOLDER',
    'fashion_mnist': '60,000 and 10,000 grey images of 10 classes: composer-kd convert fashion_mnist FOLDER',
    'FILE.npz': 'arrays images (uint8), labels, split: composer-kd convert FILE.npz FOLDER',
    'an ImageFolder': 'train/CLASS/*, test/CLASS/*: composer-kd convert IMAGES FOLDER',
}
"""What ``data.source`` may be, and what ``composer-kd convert`` makes a folder of shards from."""

Channels = Annotated[list[Annotated[float, Field(ge=-1000, le=1000)]], Field(min_length=1, max_length=1000)]


class SyntheticSection(Section):
    """What is drawn when ``source`` is ``synthetic100``. The same values give the same images everywhere."""

    train_size: Annotated[int, Field(ge=100, le=10**7)] = 5000
    """How many training images, validation included."""
    test_size: Annotated[int, Field(ge=100, le=10**7)] = 1000
    """How many test images."""
    difficulty: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How much position, colours, clutter and noise vary, from 0 to 2."""
    seed: Seed = 0
    """Another seed draws other images of the same kind."""


class DataSection(Section):
    """Where the images come from, how they are divided, and what happens to them on their way to the model."""

    source: PathText = 'synthetic100'
    """`synthetic100`, a folder of MDS shards (`composer-kd convert` writes them), or a remote that Streaming knows."""
    synthetic: SyntheticSection = SyntheticSection()
    """What is drawn when `source` is `synthetic100`: [`data.synthetic`](#datasynthetic)."""
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The part of each class that validates instead of training, chosen by content."""
    subset: Count | None = None
    """Train on this many samples only, spread evenly over the classes."""
    subset_seed: Seed = 0
    """Which subset of that size."""
    mode: Annotated[Literal['cache', 'device', 'stream'], MAY_CHANGE] = 'cache'
    """`cache`: decode once into a memory-mapped file. `device`: copy that to the GPU. `stream`: decode while training.
    """
    drift: Drifts = None
    """A [drift](drift.md) by name, or several, one after the other. They act after validation is chosen and `mean` and
    `std` are counted."""
    augment: AugmentSection = AugmentSection()
    """`true` (random crop and flip), `false`, or [another family](#dataaugment)."""
    flip: bool = True
    """Mirror half of the views."""
    padding: Annotated[int, Field(ge=0, le=64)] = 4
    """The width of the zero border that `crop_flip` crops from."""
    views: Count | None = None
    """How many augmentations of each image; epoch e shows view e modulo this. `null`: a fresh one every epoch."""
    augment_seed: Seed = 0
    """Names the family of views. Recorded logits fit only the family that they were recorded with."""
    augment_on: Literal['device', 'host'] = 'device'
    """`device`: augment after the move, from uint8. `host`: in the loader, for algorithms that expect float images."""
    mean: Channels | Literal['data'] = 'data'
    """A number for each channel on the scale of 0 to 1, or `data`: computed from the training part."""
    std: Channels | Literal['data'] = 'data'
    """Likewise."""
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Resize every image to a square of this side."""
    clean_subset: Count | None = 2000
    """How many training images the clean training accuracy is measured on; `null`: all."""
    eval_batch_size: BatchSize = 1000
    """Samples in a batch of an evaluation, over all ranks together."""
    workers: Annotated[Annotated[int, Field(ge=0, le=1024)], MAY_CHANGE] = 0
    """Loader processes of each rank, for `mode: stream` and `augment_on: host`; the cache needs none."""
    cache_dir: Annotated[PathText | None, MAY_CHANGE] = None
    """Where caches, downloads and drawn data live; `null`: `$COMPOSER_KD_CACHE`, else `~/.cache/composer_kd`."""

    @field_validator('std')
    @classmethod
    def _positive(cls, std: list[float] | str) -> list[float] | str:
        if not isinstance(std, str) and not all(0 < deviation < float('inf') for deviation in std):
            raise ValueError('every standard deviation must be greater than 0')
        return std

    @field_validator('augment_on', 'workers')
    @classmethod
    def _nothing_on_the_host(cls, value: str | int, info: ValidationInfo) -> str | int:
        if info.data.get('mode') == 'device' and value not in ('device', 0):
            raise ValueError('with mode: device no image comes by the host; leave it out, or use mode: cache')
        return value

    def check_source(self, where: str) -> None:
        """Refuse a local source that is not there; what is in it is looked at when it is opened."""
        for drift in self.drift or ():
            try:
                drift.check_files()
            except UserError as error:
                raise UserError(f'{where}.drift: {error}') from None
        local = self.source.removeprefix('file://')
        if self.source == SYNTHETIC or '://' in local or Path(local).is_dir():
            return
        hint = nearest(self.source, [SYNTHETIC])
        if '/' not in self.source and hint.startswith('did you mean'):
            raise UserError(f'{where}.source: {self.source!r} is not known; {hint}')
        raise UserError(f'{where}.source: {self.source}: no such folder; make it with `composer-kd convert`')

    @property
    def cache(self) -> Path:
        """The cache folder that is meant, whether it exists or not."""
        return Path(self.cache_dir).expanduser().absolute() if self.cache_dir else default_cache()
