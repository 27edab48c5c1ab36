"""The ``data:`` section of a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from composer_kd.archive.fetch import default_cache
from composer_kd.data.augment_section import AugmentSection
from composer_kd.data.drift.drift import Drifts
from composer_kd.errors import UserError, nearest
from composer_kd.section import BatchSize, Count, PathText, Section, Seed

__all__ = ['SOURCES', 'SYNTHETIC', 'DataSection', 'SyntheticSection']

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
