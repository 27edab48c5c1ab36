"""A part of a data set (train, validation, test) as a map-style PyTorch Dataset of whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.data.table import SampleTable
from composer_kd.data.transform import Augmentation, Batch

__all__ = ['CachedImages', 'Facts', 'KeyedImages']


@dataclass(frozen=True)
class Facts:
    """What is true of all parts of a data set.

    Attributes:
        fingerprint: Names the stored data: shards, and the size that they are resized to.
        classes: The name of each class.
        superclasses: The names of the coarser classes, if there are any.
        coarse: The superclass of each class.
        shape: (C, H, W).
        mean: Of each channel, on the scale of 0 to 1, as the loader normalises with it.
        std: Likewise.
        fine_classes: The names of the finer classes that samples were of before a drift made superclasses of them.
    """

    fingerprint: str
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    coarse: tuple[int, ...] | None
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fine_classes: tuple[str, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)


class KeyedImages(Dataset, ABC):
    """Samples with ids, looked up by packed integers (row + N * view), a whole batch at a time.

    Algorithms read ``fingerprint``, ``augmentation``, ``views`` and the rest off
    ``state.train_dataloader.dataset``.

    Args:
        part: ``'train'``, ``'train_clean'``, ``'val'`` or ``'test'``.
        table: What is known of the part's samples, one row each.
        facts: What is true of all parts.
        augmentation: The family of views that a non-negative view is of.
        views: How many of them there are; ``None`` for a fresh one every epoch.

    Attributes:
        fine: The finer class of each sample, where the facts have ``fine_classes``.
    """

    fine: NDArray[np.int64] | None = None

    def __init__(
        self, part: str, table: SampleTable, facts: Facts, augmentation: Augmentation, views: int | None
    ) -> None:
        self.part = part
        self.facts = facts
        self.augmentation = augmentation
        self.views = views
        self.ids = table.ids
        self.labels = table.labels
        self.content_hashes = table.hashes
        self._ids = torch.from_numpy(table.ids)
        self._labels = torch.from_numpy(table.labels)

    fingerprint = property(lambda self: self.facts.fingerprint)
    normalization = property(lambda self: (self.facts.mean, self.facts.std))
    num_classes = property(lambda self: self.facts.num_classes)
    classes = property(lambda self: self.facts.classes)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, packed: int) -> Batch:
        images, labels, keys = self.__getitems__([packed])
        return images[0], labels[0], keys[0]

    def __getitems__(self, packed: Sequence[int]) -> Batch:
        index = torch.tensor(packed, dtype=torch.int64)
        rows = index % len(self)
        views = index.div(len(self), rounding_mode='floor')
        keys = torch.stack([self._ids.index_select(0, rows), views], 1)
        return self.images(rows), self._labels.index_select(0, rows), keys

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """The stored uint8 images [B, C, H, W] of these rows."""


class CachedImages(KeyedImages):
    """Images out of the memory-mapped cache, or out of its copy on the training device.

    Labels and keys are on the host all the same: recorded teachers look keys up there, and both move with the batch.

    Args:
        cached: All images of the split, wherever they are; a batch is gathered there.
        positions: Where in ``cached`` each of the part's samples is.
    """

    def __init__(
        self,
        part: str,
        table: SampleTable,
        facts: Facts,
        augmentation: Augmentation,
        views: int | None,
        cached: Tensor,
        positions: NDArray[np.int64],
    ) -> None:
        super().__init__(part, table, facts, augmentation, views)
        self._cached = cached
        self._positions = torch.from_numpy(positions)

    def images(self, rows: Tensor) -> Tensor:
        positions = self._positions.index_select(0, rows)
        # A few KB: CUDA takes up to 64 KB from ordinary memory without waiting for the device.
        return self._cached.index_select(0, positions.to(self._cached.device, non_blocking=True))
