"""From the ``data:`` section to what a Trainer takes: loaders of (image, label, key) batches for every part."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from composer.utils import dist, get_device
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from composer_kd.data.cache import check_one_size, check_same_shape, open_cache, open_table
from composer_kd.data.dataset import CachedImages, Facts, KeyedImages
from composer_kd.data.sampler import EvalSampler, TrainSampler
from composer_kd.data.section import SYNTHETIC, DataSection
from composer_kd.data.shards import ShardFolder, open_shards
from composer_kd.data.split import check_classes, choose_stratified, choose_validation
from composer_kd.data.synthetic import synthetic_folder
from composer_kd.data.table import SampleTable, mean_and_std
from composer_kd.data.transform import Augmentation, Prepare
from composer_kd.errors import UserError, nearest

__all__ = ['Data', 'open_data']

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Everything that a run needs to know of its data.

    Attributes:
        train: Augmented, shuffled, in whole batches.
        train_clean: A fixed part of the training samples as they are stored.
        val: The validation part, or ``None`` with ``val_fraction: 0``.
        test: Reported, never used to choose.
        facts: Names, shape, normalisation and fingerprint.
    """

    train: DataSpec
    train_clean: DataSpec
    val: DataSpec | None
    test: DataSpec
    facts: Facts

    fingerprint = property(lambda self: self.facts.fingerprint)
    num_classes = property(lambda self: self.facts.num_classes)
    classes = property(lambda self: self.facts.classes)
    superclasses = property(lambda self: self.facts.superclasses)
    coarse = property(lambda self: self.facts.coarse)
    shape = property(lambda self: self.facts.shape)
    normalization = property(lambda self: (self.facts.mean, self.facts.std))
    augmentation = property(lambda self: self.train_set.augmentation)
    views = property(lambda self: self.train_set.views)

    @property
    def train_set(self) -> KeyedImages:
        return self.train.dataloader.dataset  # type: ignore[union-attr]


def open_data(
    section: DataSection, batch_size: int, seed: int, where: str = 'data', device: torch.device | None = None
) -> Data:
    """Open the data that a section describes: drawn, downloaded, verified and decoded as it needs be.

    Args:
        section: The checked section.
        batch_size: Of training, over all ranks.
        seed: Of the order of the training samples.
        where: The section's path in the file, for error lines.
        device: Where the images lie with ``mode: device``; ``None`` is where a Trainer trains by default.
    """
    ranks = dist.get_world_size()
    if batch_size < 1 or batch_size % ranks:
        raise UserError(f'{where}: the batch size {batch_size} cannot be divided evenly over {ranks} ranks')
    folder = _open_source(section, where)
    splits = _open_splits(folder, section, where, device)
    parts = _divide(splits['train'], splits['test'], _class_names(folder, splits), section, where)
    trained = len(parts['train'].positions)
    if trained < batch_size:
        raise UserError(
            f'{where}: a batch of {batch_size} is larger than the training part of {trained} samples; '
            f'lower the batch size'
        )
    facts = _facts(folder, splits, parts['train'], section, where)
    augmentation = Augmentation.of(section)
    views = 1 if augmentation == Augmentation.none() else section.views

    def spec(name: str) -> DataSpec:
        dataset = parts[name].dataset(name, facts, augmentation, views)
        if name == 'train':
            return _train_spec(dataset, section, batch_size, seed)
        return _eval_spec(dataset, section)

    return Data(
        train=spec('train'),
        train_clean=spec('train_clean'),
        val=spec('val') if 'val' in parts else None,
        test=spec('test'),
        facts=facts,
    )


@dataclass(frozen=True)
class _OpenSplit:
    """A split of the shards, decoded (``cached``) or to be streamed (``stream``), and its table in stored order."""

    table: SampleTable
    shape: tuple[int, ...]
    cached: torch.Tensor | None = None
    stream: Any = None
    image_size: int | None = None


@dataclass(frozen=True)
class _Part:
    """Some samples of a split: their positions in it, in the order of their ids."""

    split: _OpenSplit
    positions: NDArray[np.int64]

    @property
    def table(self) -> SampleTable:
        return self.split.table.take(self.positions)

    def dataset(self, name: str, facts: Facts, augmentation: Augmentation, views: int | None) -> KeyedImages:
        table = _hashes_as_seen(self.table, self.split.image_size)
        if self.split.cached is not None:
            return CachedImages(name, table, facts, augmentation, views, self.split.cached, self.positions)
        from composer_kd.data.stream import StreamedImages

        return StreamedImages(
            name, table, facts, augmentation, views, self.split.stream, self.positions, self.split.image_size
        )


def _open_source(section: DataSection, where: str) -> ShardFolder:
    source = section.source
    if source == SYNTHETIC:
        source = str(synthetic_folder(section.synthetic, section.cache))
    elif not Path(source).exists() and nearest(source, [SYNTHETIC]).startswith('did you mean'):
        raise UserError(f'{where}.source: {source!r} is not known; {nearest(source, [SYNTHETIC])}')
    return open_shards(source, section.cache, f'{where}.source')


def _open_splits(
    folder: ShardFolder, section: DataSection, where: str, device: torch.device | None
) -> dict[str, _OpenSplit]:
    if section.mode != 'stream':
        splits = {}
        for role, split in zip(('train', 'test'), open_cache(folder, section.image_size, section.cache), strict=True):
            images = split.images if section.mode == 'cache' else _on_device(split.images, device, where)
            splits[role] = _OpenSplit(split.table, tuple(images.shape[1:]), images, image_size=section.image_size)
    else:
        from composer_kd.data.stream import open_stream  # imports streaming, which the cache need not wait for

        splits = {}
        for role, split in (('train', folder.train), ('test', folder.test)):
            table = open_table(folder, split, section.cache)
            shape = check_one_size(split, table, section.image_size)
            stream = open_stream(split, section.cache)
            splits[role] = _OpenSplit(table, shape, stream=stream, image_size=section.image_size)
        check_same_shape(folder.location, splits['train'].shape, splits['test'].shape)
    for role, split in splits.items():
        if len(np.unique(split.table.ids)) != len(split.table):
            raise UserError(f'{folder.location}: the ids (column i) of the {role} split are not unique')
    return splits


def _on_device(images: torch.Tensor, device: torch.device | None, where: str) -> torch.Tensor:
    """A split's images on the training device; on the CPU they stay in the cache."""
    device = device or get_device(None)._device
    try:
        return images.to(device)
    except torch.OutOfMemoryError as error:
        size = f'{images.numel() / 2**30:.1f} GiB'
        raise UserError(f'{where}.mode: the device has no room for {size} of images; use mode: cache') from error


def _class_names(folder: ShardFolder, splits: dict[str, _OpenSplit]) -> list[str]:
    """The names of the classes; refuses a label that has none."""
    highest = max(int(split.table.labels.max()) for split in splits.values())
    if folder.description is not None:
        names = folder.description.classes
    else:
        names = [str(label) for label in range(highest + 1)]
    for role, split in splits.items():
        outside = np.flatnonzero((split.table.labels < 0) | (split.table.labels >= len(names)))
        if len(outside):
            row = int(outside[0])
            raise UserError(
                f'{folder.location}: label {split.table.labels[row]} of {role} sample {split.table.ids[row]} is out of '
                f'range; {len(names)} classes have labels 0 to {len(names) - 1}'
            )
    return names


def _divide(
    train: _OpenSplit, test: _OpenSplit, classes: list[str], section: DataSection, where: str
) -> dict[str, _Part]:
    """Training, clean training, validation and test parts, each in the order of its ids."""
    # Shards may hold the samples in any order (converters permute them): the ids give one order to all of them.
    by_id = np.argsort(train.table.ids, kind='stable')
    hashes, labels = train.table.hashes[by_id], train.table.labels[by_id]
    validates = choose_validation(hashes, labels, section.val_fraction)
    trains = np.flatnonzero(~validates)
    parts = {}
    if section.val_fraction > 0:
        remedy = f'give {where}.val_fraction another value, or every class more samples'
        check_classes(labels[validates], classes, f'{where}: the validation part', remedy)
        parts['val'] = _Part(train, by_id[validates])
    remedy = 'every class needs training samples'
    if section.val_fraction > 0:
        remedy += f' besides those that {where}.val_fraction takes'
    check_classes(labels[trains], classes, f'{where}: the training part', remedy)
    if section.subset is not None:
        trains = trains[choose_stratified(hashes[trains], labels[trains], section.subset, section.subset_seed)]
        remedy = f'raise {where}.subset'
        check_classes(labels[trains], classes, f'{where}: the training part of {section.subset} samples', remedy)
    clean = trains
    if section.clean_subset is not None:
        clean = trains[choose_stratified(hashes[trains], labels[trains], section.clean_subset)]
    parts['train'] = _Part(train, by_id[trains])
    parts['train_clean'] = _Part(train, by_id[clean])
    parts['test'] = _Part(test, np.argsort(test.table.ids, kind='stable'))
    return parts


def _facts(folder: ShardFolder, splits: dict[str, _OpenSplit], train: _Part, section: DataSection, where: str) -> Facts:
    channels, height, width = splits['train'].shape
    mean, std = mean_and_std(train.table)
    # An all-black channel: dividing by 1 leaves it at 0.
    given = {'mean': mean, 'std': [deviation or 1.0 for deviation in std]}
    for key in given:
        value = getattr(section, key)
        if value != 'data':
            if len(value) != channels:
                raise UserError(f'{where}.{key}: {len(value)} values, and the images have {channels} channels')
            given[key] = value
    description = folder.description
    fingerprint = folder.fingerprint + (f'-{section.image_size}' if section.image_size else '')
    return Facts(
        fingerprint=fingerprint,
        classes=tuple(_class_names(folder, splits)),
        superclasses=tuple(description.superclasses) if description and description.superclasses else None,
        coarse=tuple(description.coarse) if description and description.coarse else None,
        shape=(channels, height, width),
        mean=tuple(given['mean']),
        std=tuple(given['std']),
    )


def _hashes_as_seen(table: SampleTable, image_size: int | None) -> SampleTable:
    """Content hashes that differ between sizes of one image, without decoding it: of the stored hash and the size."""
    if image_size is None:
        return table
    from composer_kd.functional.counter import counter_hash

    sized = counter_hash(image_size, torch.from_numpy(table.hashes.view(np.int64)))
    return replace(table, hashes=sized.numpy().view(np.uint64))


def _train_spec(dataset: KeyedImages, section: DataSection, batch_size: int, seed: int) -> DataSpec:
    ranks = dist.get_world_size()
    sampler = TrainSampler(dataset, batch_size, seed, ranks, dist.get_global_rank())
    prepare = Prepare(dataset.augmentation, *dataset.normalization)
    return _spec(dataset, sampler, batch_size // ranks, prepare, section, drop_last=True)


def _eval_spec(dataset: KeyedImages, section: DataSection) -> DataSpec:
    ranks = dist.get_world_size()
    sampler = EvalSampler(dataset, ranks, dist.get_global_rank())
    prepare = Prepare(Augmentation.none(), *dataset.normalization)
    return _spec(dataset, sampler, max(1, section.eval_batch_size // ranks), prepare, section, drop_last=False)


def _spec(
    dataset: KeyedImages,
    sampler: TrainSampler | EvalSampler,
    batch_size: int,
    prepare: Prepare,
    section: DataSection,
    drop_last: bool,
) -> DataSpec:
    on_host = section.augment_on == 'host'
    loader = _Loader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        collate_fn=prepare if on_host else _as_it_is,
        num_workers=section.workers if on_host or section.mode == 'stream' else 0,
        # Else every pass over any loader draws a number from the global generator, and evaluating changes training.
        generator=torch.Generator(),
    )
    samples = sampler.total_size if drop_last else len(dataset)
    if on_host:
        return DataSpec(loader, num_samples=samples)
    return DataSpec(loader, num_samples=samples, microbatch_transforms=prepare)


class _Loader(DataLoader):
    """A DataLoader whose workers' error lines arrive as they were written, without the worker's traceback in them."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(str(error).strip().rpartition('UserError: ')[2]) from error


def _as_it_is(batch: Any) -> Any:
    return batch
