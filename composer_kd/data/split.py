"""Which samples train, validate and test: the splits of the shards, and the parts that they are divided into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.data.dataset import CachedImages, DatasetInfo, KeyedImages, SampleTable
from composer_kd.data.section import DataSection
from composer_kd.data.transform import Augmentation
from composer_kd.functional.counter import counter_hash

__all__ = [
    'OpenSplit',
    'Part',
    'Transformed',
    'check_classes',
    'choose_stratified',
    'choose_validation',
    'clean_part',
    'divide',
    'quotas',
]


@dataclass(frozen=True)
class OpenSplit:
    """A split of the shards, decoded (``cached``) or to be streamed (``stream``), and its table in stored order."""

    table: SampleTable
    shape: tuple[int, ...]
    cached: Tensor | None = None
    stream: Any = None
    image_size: int | None = None


@dataclass(frozen=True)
class Transformed:
    """Other pixels for the samples of a part.

    Attributes:
        hashes: Of their content as it is now, a row a sample.
        paint: Makes them, of uint8 images [B, C, H, W] and their ids.
        images: Transformed already, a row a sample, where the split is decoded.
    """

    hashes: NDArray[np.uint64]
    paint: Callable[[Tensor, Tensor], Tensor]
    images: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """Some samples of a split in the order of their ids, as they are stored or as drifts have left them.

    Attributes:
        split: What they are some of.
        positions: Where in it.
        labels: Other labels than those of the table.
        fine: The finer class that each sample was of before a drift, where its class is a coarser one now.
        painted: Other pixels, a row a sample.
        rows: Which of those rows are of these samples.
    """

    split: OpenSplit
    positions: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    fine: NDArray[np.int64] | None = None
    painted: Transformed | None = None
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def stored(self) -> SampleTable:
        """The rows of the split's table, whatever drifts have changed."""
        return self.split.table.take(self.positions)

    @property
    def table(self) -> SampleTable:
        """What a model is shown: labels, and content hashes of the pixels as they are now."""
        table = _hashes_as_seen(self.stored, self.split.image_size)
        if self.labels is not None:
            table = replace(table, labels=self.labels)
        if self.painted is not None:
            table = replace(table, hashes=self.painted.hashes[self.rows])
        return table

    def take(self, chosen: NDArray[np.int64]) -> Part:
        """Some of them, by ascending places."""
        labels = None if self.labels is None else self.labels[chosen]
        fine = None if self.fine is None else self.fine[chosen]
        rows = None if self.rows is None else self.rows[chosen]
        return replace(self, positions=self.positions[chosen], labels=labels, fine=fine, rows=rows)

    def dataset(
        self,
        name: str,
        info: DatasetInfo,
        augmentation: Augmentation,
        views: int | None,
        place: Callable[[Tensor], Tensor],
    ) -> KeyedImages:
        """The samples as a data set; ``place`` gives images where they are to be gathered."""
        split = self.split
        if self.painted is not None and self.painted.images is not None and self.rows is not None:
            images, places = place(self.painted.images), self.rows
            dataset: KeyedImages = CachedImages(name, self.table, info, augmentation, views, images, places)
        elif split.cached is not None:
            images, places = place(split.cached), self.positions
            dataset = CachedImages(name, self.table, info, augmentation, views, images, places)
        else:
            from composer_kd.data.stream import StreamedImages

            stream, size = split.stream, split.image_size
            paint = None if self.painted is None else self.painted.paint
            dataset = StreamedImages(name, self.table, info, augmentation, views, stream, self.positions, size, paint)
        dataset.fine = self.fine
        return dataset


def divide(train: OpenSplit, test: OpenSplit, classes: list[str], section: DataSection, where: str) -> dict[str, Part]:
    """The training, the validation and the test part, each in the order of its ids."""
    # Shards may hold the samples in any order (converters permute them): the ids give one order to all of them.
    by_id = np.argsort(train.table.ids, kind='stable')
    hashes, labels = train.table.hashes[by_id], train.table.labels[by_id]
    validates = choose_validation(hashes, labels, section.val_fraction)
    trains = np.flatnonzero(~validates)
    parts = {}
    if section.val_fraction > 0:
        remedy = f'give {where}.val_fraction another value, or every class more samples'
        check_classes(labels[validates], classes, f'{where}: the validation part', remedy)
        parts['val'] = Part(train, by_id[validates])
    remedy = 'every class needs training samples'
    if section.val_fraction > 0:
        remedy += f' besides those that {where}.val_fraction takes'
    check_classes(labels[trains], classes, f'{where}: the training part', remedy)
    if section.subset is not None:
        trains = trains[choose_stratified(hashes[trains], labels[trains], section.subset, section.subset_seed)]
        remedy = f'raise {where}.subset'
        check_classes(labels[trains], classes, f'{where}: the training part of {section.subset} samples', remedy)
    parts['train'] = Part(train, by_id[trains])
    parts['test'] = Part(test, np.argsort(test.table.ids, kind='stable'))
    return parts


def clean_part(train: Part, count: int | None) -> Part:
    """The training samples that the clean accuracy is counted on, chosen by their stored content."""
    if count is None:
        return train
    labels = train.table.labels
    return train.take(choose_stratified(train.stored.hashes, labels, count))


def _hashes_as_seen(table: SampleTable, image_size: int | None) -> SampleTable:
    """Content hashes that differ between sizes of one image, without decoding it: of the stored hash and the size."""
    if image_size is None:
        return table
    from composer_kd.functional.counter import counter_hash

    sized = counter_hash(image_size, torch.from_numpy(table.hashes.view(np.int64)))
    return replace(table, hashes=sized.numpy().view(np.uint64))


def choose_validation(hashes: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Mark ``fraction`` of each class (at least one sample) for validation: those with the lowest content hashes.

    Copies of one image count together, whatever their labels: where one is chosen, all are. A class may therefore give
    a few samples more than its share.

    Args:
        hashes: A 64-bit hash of each sample's pixels.
        labels: The class of each sample.
        fraction: From 0 to 0.5.
    """
    chosen = np.zeros(len(labels), np.bool_)
    if fraction == 0:
        return chosen
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        wanted = max(1, round(fraction * len(of_class)))
        threshold = np.sort(hashes[of_class])[wanted - 1]
        chosen[of_class] = hashes[of_class] <= threshold
    return np.isin(hashes, hashes[chosen])


def choose_stratified(
    hashes: NDArray[np.uint64], labels: NDArray[np.int64], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """The ascending positions of ``count`` samples: the lowest hashes of each class, in proportion to its size.

    Args:
        hashes: A 64-bit hash of each sample's pixels.
        labels: The class of each sample.
        count: How many, or all where there are fewer.
        seed: Any but 0 chooses by a hash of (seed, content hash) instead: choices that overlap by chance.
    """
    if seed:
        hashes = counter_hash(seed, torch.from_numpy(hashes.view(np.int64))).numpy().view(np.uint64)
    classes, sizes = np.unique(labels, return_counts=True)
    chosen = []
    for label, quota in zip(classes, quotas(sizes, count), strict=True):
        of_class = np.flatnonzero(labels == label)
        chosen.append(of_class[np.argsort(hashes[of_class], kind='stable')[:quota]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide ``count`` in proportion to ``sizes``, by largest remainders, never more than there is."""
    count = min(count, int(sizes.sum()))
    exact = sizes * (count / max(1, sizes.sum()))
    shares = np.floor(exact).astype(np.int64)
    # Lowest class first among equal remainders; rounding keeps float noise from deciding between equals.
    order = np.argsort(-np.round(exact - shares, 9), kind='stable')
    shares[order[: count - int(shares.sum())]] += 1
    return shares


def check_classes(labels: NDArray[np.int64], classes: list[str], what: str, remedy: str) -> None:
    """Refuse a part of the data that is empty or lacks a class.

    Args:
        labels: The labels of the part.
        classes: The names of all classes.
        what: Names the part in the error line.
        remedy: Ends the error line.
    """
    if len(labels) == 0:
        raise UserError(f'{what} is empty; {remedy}')
    counts = np.bincount(labels, minlength=len(classes))
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        others = f' and {len(absent) - 1} more' if len(absent) > 1 else ''
        raise UserError(f'{what} has no sample of class {classes[absent[0]]!r}{others}; {remedy}')
