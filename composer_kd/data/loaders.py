"""From the ``data:`` section to what a Trainer takes: loaders of (image, label, key) batches for every part."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from composer.utils import dist, get_device
from torch.utils.data import DataLoader

from composer_kd.core.errors import UserError, nearest
from composer_kd.data.cache import check_one_size, check_same_shape, open_cache, open_table
from composer_kd.data.dataset import DatasetInfo, KeyedImages, mean_and_std
from composer_kd.data.drift.apply import drifted
from composer_kd.data.sampler import EvalSampler, TrainSampler
from composer_kd.data.section import SYNTHETIC, DataSection
from composer_kd.data.shards import ShardFolder, open_shards
from composer_kd.data.split import OpenSplit, Part, clean_part, divide
from composer_kd.data.synthetic import synthetic_folder
from composer_kd.data.transform import Augmentation, Prepare

__all__ = ['Data', 'open_data', 'open_parts', 'open_source']

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """Everything that a run needs to know of its data.

    Attributes:
        train: Augmented, shuffled, in whole batches.
        train_clean: A fixed part of the training samples as they are stored.
        val: The validation part, or ``None`` with ``val_fraction: 0``.
        test: Reported, never used to choose.
        info: Names, shape, normalisation and fingerprint.
    """

    train: DataSpec
    train_clean: DataSpec
    val: DataSpec | None
    test: DataSpec
    info: DatasetInfo

    fingerprint = property(lambda self: self.info.fingerprint)
    num_classes = property(lambda self: self.info.num_classes)
    classes = property(lambda self: self.info.classes)
    superclasses = property(lambda self: self.info.superclasses)
    coarse = property(lambda self: self.info.coarse)
    shape = property(lambda self: self.info.shape)
    normalization = property(lambda self: (self.info.mean, self.info.std))
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
    parts, info = open_parts(section, where)
    # After the division, and after mean and std are counted: a drift changes neither.
    parts, info_of = drifted(parts, info, section.drift or (), section.cache, f'{where}.drift')
    trained = len(parts['train'])
    if trained < batch_size:
        raise UserError(
            f'{where}: a batch of {batch_size} is larger than the training part of {trained} samples; '
            f'lower the batch size'
        )
    parts['train_clean'], info_of['train_clean'] = clean_part(parts['train'], section.clean_subset), info_of['train']
    augmentation = Augmentation.of(section)
    views = 1 if augmentation == Augmentation.none() else section.views
    place = _Placing(section.mode, device, where)

    def spec(name: str) -> DataSpec:
        dataset = parts[name].dataset(name, info_of[name], augmentation, views, place)
        if name == 'train':
            return _train_spec(dataset, section, batch_size, seed)
        return _eval_spec(dataset, section)

    return Data(
        train=spec('train'),
        train_clean=spec('train_clean'),
        val=spec('val') if 'val' in parts else None,
        test=spec('test'),
        info=info_of['train'],
    )


def open_parts(section: DataSection, where: str) -> tuple[dict[str, Part], DatasetInfo]:
    """The parts as they are divided before any drift, and the info of all of them."""
    folder = open_source(section, where)
    splits = _open_splits(folder, section)
    parts = divide(splits['train'], splits['test'], _class_names(folder, splits), section, where)
    return parts, _dataset_info(folder, splits, parts['train'], section, where)


def open_source(section: DataSection, where: str) -> ShardFolder:
    """The shards that a section names; drawn where they are to be."""
    source = section.source
    if source == SYNTHETIC:
        source = str(synthetic_folder(section.synthetic, section.cache))
    elif not Path(source).exists() and nearest(source, [SYNTHETIC]).startswith('did you mean'):
        raise UserError(f'{where}.source: {source!r} is not known; {nearest(source, [SYNTHETIC])}')
    return open_shards(source, section.cache, f'{where}.source')


def _open_splits(folder: ShardFolder, section: DataSection) -> dict[str, OpenSplit]:
    if section.mode != 'stream':
        splits = {}
        for role, split in zip(('train', 'test'), open_cache(folder, section.image_size, section.cache), strict=True):
            shape = tuple(split.images.shape[1:])
            splits[role] = OpenSplit(split.table, shape, split.images, image_size=section.image_size)
    else:
        from composer_kd.data.stream import open_stream  # imports streaming, which the cache need not wait for

        splits = {}
        for role, split in (('train', folder.train), ('test', folder.test)):
            table = open_table(folder, split, section.cache)
            shape = check_one_size(split, table, section.image_size)
            stream = open_stream(split, section.cache)
            splits[role] = OpenSplit(table, shape, stream=stream, image_size=section.image_size)
        check_same_shape(folder.location, splits['train'].shape, splits['test'].shape)
    for role, split in splits.items():
        if len(np.unique(split.table.ids)) != len(split.table):
            raise UserError(f'{folder.location}: the ids (column i) of the {role} split are not unique')
    return splits


class _Placing:
    """Where images are gathered: in the cache, or with ``mode: device`` in a copy that parts of one split share."""

    def __init__(self, mode: str, device: torch.device | None, where: str):
        self._device = (device or get_device(None)._device) if mode == 'device' else None
        self._where = where
        self._copies: dict[int, torch.Tensor] = {}

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self._device is None:
            return images
        if id(images) not in self._copies:
            try:
                self._copies[id(images)] = images.to(self._device)
            except torch.OutOfMemoryError as error:
                size = f'{images.numel() / 2**30:.1f} GiB'
                raise UserError(
                    f'{self._where}.mode: the device has no room for {size} of images; use mode: cache'
                ) from error
        return self._copies[id(images)]


def _class_names(folder: ShardFolder, splits: dict[str, OpenSplit]) -> list[str]:
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


def _dataset_info(
    folder: ShardFolder, splits: dict[str, OpenSplit], train: Part, section: DataSection, where: str
) -> DatasetInfo:
    channels, height, width = splits['train'].shape
    mean, std = mean_and_std(train.stored)
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
    return DatasetInfo(
        fingerprint=fingerprint,
        classes=tuple(_class_names(folder, splits)),
        superclasses=tuple(description.superclasses) if description and description.superclasses else None,
        coarse=tuple(description.coarse) if description and description.coarse else None,
        shape=(channels, height, width),
        mean=tuple(given['mean']),
        std=tuple(given['std']),
    )


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
