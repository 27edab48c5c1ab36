"""``data.augment`` in a YAML file: what happens to a training image, by the key that it comes with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_serializer, model_validator

from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import BatchSize, Count, PathText, Section, Seed
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
    contrast: Reach = 0.4
    saturation: Reach = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class RandAugmentSection(Section):
    """How many operations each image goes through, and their magnitude."""

    operations: Annotated[int, Field(ge=1, le=14)] = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class AugmentSection(Section):
    """A family of views. ``true`` is ``crop_flip``, ``false`` is ``none``, a name alone has its defaults.

    Attributes:
        name: ``'crop_flip'``, a crop out of a zero border; ``'resized_crop'``, a box of any size stretched to the
            image's; ``'none'``, the image as it is stored. ``data.flip`` mirrors half of the views of the first two.
        scale: Of ``resized_crop``: the smallest and the largest area of a box, as a part of the image's.
        ratio: Of ``resized_crop``: the smallest and the largest width of a box, as a multiple of its height.
        colour_jitter: After that, brightness, contrast, saturation and hue; ``true`` is all defaults.
        rand_augment: At the end, some of fourteen operations; ``true`` is all defaults.
    """

    name: Literal['none', 'crop_flip', 'resized_crop'] = 'crop_flip'
    scale: Shares = Field(default_factory=lambda: [0.08, 1.0])
    ratio: Stretches = Field(default_factory=lambda: [3 / 4, 4 / 3])
    colour_jitter: ColourJitterSection | None = None
    rand_augment: RandAugmentSection | None = None

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
    test_size: Annotated[int, Field(ge=100, le=10**7)] = 1000
    difficulty: Annotated[float, Field(ge=0, le=2)] = 1.0
    seed: Seed = 0


class DataSection(Section):
    """Where the images come from, how they are divided, and what happens to them on their way to the model.

    Attributes:
        source: ``'synthetic100'``, a folder of MDS shards (as ``composer-kd convert`` writes them, or one's own with
            columns ``x``, ``y`` and perhaps ``i``), or a remote that Streaming knows (``s3://...``, ``file://...``).
        synthetic: The parameters of ``synthetic100``; ignored for any other source.
        val_fraction: The part of each class that is kept out of training, chosen by a hash of the content.
        subset: Train on this many samples only, spread evenly over the classes; validation and test stay whole.
        subset_seed: Which of the subsets of that size: another number, another choice.
        mode: ``'cache'`` decodes everything once into a memory-mapped file; ``'device'`` copies that to the training
            device, for a GPU that would wait for the host; ``'stream'`` decodes as it goes, for data too large for
            either.
        drift: How the data has moved: a scenario of :data:`~composer_kd.data.drift.DRIFTS`, or several, one after the
            other. Validation is chosen, and mean and std are counted, before.
        augment: What happens to the training images: random crop and flip, or a stronger family; without it every epoch
            sees the same one view.
        flip: Mirror half of the views.
        padding: Width of the zero border that the crops of ``crop_flip`` are taken from.
        views: How many augmentations of an image there are; epoch e uses view e modulo this. ``None``: a fresh one
            every epoch.
        augment_seed: Names the family of views. Teachers' recordings fit only the family that they were made with.
        augment_on: ``'device'`` sends uint8 and augments after the move; ``'host'`` lets the loader do it, for Composer
            algorithms that expect ordinary float images.
        mean: Of each channel on the scale of 0 to 1, or ``'data'``: counted over the training part.
        std: Likewise.
        image_size: Resize every image to this square, so that images of mixed sizes make one batch.
        clean_subset: How many training images the clean training accuracy is counted on; ``None`` for all.
        eval_batch_size: Over all ranks, as the training batch size is.
        workers: Loader processes a rank, for ``mode: stream`` and ``augment_on: host``; the cache needs none.
        cache_dir: Where caches, downloads and drawn data live; else ``$COMPOSER_KD_CACHE``, else
            ``~/.cache/composer_kd``.
    """

    source: PathText = 'synthetic100'
    synthetic: SyntheticSection = SyntheticSection()
    val_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    subset: Count | None = None
    subset_seed: Seed = 0
    mode: Literal['cache', 'device', 'stream'] = 'cache'
    drift: Drifts = None
    augment: AugmentSection = AugmentSection()
    flip: bool = True
    padding: Annotated[int, Field(ge=0, le=64)] = 4
    views: Count | None = None
    augment_seed: Seed = 0
    augment_on: Literal['device', 'host'] = 'device'
    mean: Channels | Literal['data'] = 'data'
    std: Channels | Literal['data'] = 'data'
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    clean_subset: Count | None = 2000
    eval_batch_size: BatchSize = 1000
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    cache_dir: PathText | None = None

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
