"""A part of a data set (train, validation, test) as a map-style PyTorch Dataset of whole batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from composer_kd.core.errors import UserError
from composer_kd.data.transform import Augmentation, Batch
from composer_kd.storage.atomic import replacing

__all__ = [
    'CachedImages',
    'DatasetInfo',
    'KeyedImages',
    'SampleTable',
    'TableBuilder',
    'as_image',
    'mean_and_std',
    'pixel_hash',
    'resize',
]


@dataclass(frozen=True)
class DatasetInfo:
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
        info: What is true of all parts.
        augmentation: The family of views that a non-negative view is of.
        views: How many of them there are; ``None`` for a fresh one every epoch.

    Attributes:
        fine: The finer class of each sample, where the info have ``fine_classes``.
    """

    fine: NDArray[np.int64] | None = None

    def __init__(
        self, part: str, table: SampleTable, info: DatasetInfo, augmentation: Augmentation, views: int | None
    ) -> None:
        self.part = part
        self.info = info
        self.augmentation = augmentation
        self.views = views
        self.ids = table.ids
        self.labels = table.labels
        self.content_hashes = table.hashes
        self._ids = torch.from_numpy(table.ids)
        self._labels = torch.from_numpy(table.labels)

    fingerprint = property(lambda self: self.info.fingerprint)
    normalization = property(lambda self: (self.info.mean, self.info.std))
    num_classes = property(lambda self: self.info.num_classes)
    classes = property(lambda self: self.info.classes)

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
        info: DatasetInfo,
        augmentation: Augmentation,
        views: int | None,
        cached: Tensor,
        positions: NDArray[np.int64],
    ) -> None:
        super().__init__(part, table, info, augmentation, views)
        self._cached = cached
        self._positions = torch.from_numpy(positions)

    def images(self, rows: Tensor) -> Tensor:
        positions = self._positions.index_select(0, rows)
        # A few KB: CUDA takes up to 64 KB from ordinary memory without waiting for the device.
        return self._cached.index_select(0, positions.to(self._cached.device, non_blocking=True))


@dataclass(frozen=True)
class SampleTable:
    """One row a sample, in the order in which the shards hold them.

    Attributes:
        ids: The stored ``i``, or the position where the shards have no such column; unique within a split.
        labels: The class.
        hashes: xxh3_64 of the stored pixels (their shape included).
        shapes: (C, H, W) of each stored image.
        sums: Sum of the pixel values of each channel; beyond a sample's channels, 0.
        squares: Sum of their squares. Integers, so that the mean of any part of the data is exact.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    shapes: NDArray[np.int64]
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.int64]) -> SampleTable:
        return SampleTable(*(getattr(self, field.name)[rows] for field in fields(self)))

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        columns = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}
        with replacing(path) as temporary:
            save_file(columns, temporary)

    @classmethod
    def load(cls, path: Path) -> SampleTable:
        """Read what :meth:`save` wrote. The caller has compared the file's hash with what it should be."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return cls(**load_file(path))
        except (SafetensorError, TypeError) as error:
            raise UserError(f'{path}: not a table of samples ({error}); convert the data again') from None


class TableBuilder:
    """Collects the rows while images pass by."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int, tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]] = []

    def add(self, sample_id: int, label: int, image: NDArray[np.uint8]) -> None:
        """Enter one sample, whose ``image`` is uint8 of shape [C, H, W]."""
        flat = image.reshape(len(image), -1)
        # A histogram would be exact too, but these two sums in int64 are four times as fast on small images.
        sums = flat.sum(1, dtype=np.int64)
        squares = np.square(flat, dtype=np.int32).sum(1, dtype=np.int64)
        self._rows.append((sample_id, label, pixel_hash(image), image.shape, sums, squares))

    def finish(self) -> SampleTable:
        count = len(self._rows)
        channels = max((len(row[4]) for row in self._rows), default=1)
        sums, squares = np.zeros((2, count, channels), np.int64)
        for number, row in enumerate(self._rows):
            sums[number, : len(row[4])], squares[number, : len(row[5])] = row[4], row[5]
        ids, labels, hashes, shapes = (list(column) for column in list(zip(*self._rows, strict=True))[:4] or [()] * 4)
        return SampleTable(
            np.array(ids, np.int64),
            np.array(labels, np.int64),
            np.array(hashes, np.uint64),
            np.array(shapes, np.int64).reshape(count, 3),
            sums,
            squares,
        )


def pixel_hash(image: NDArray[np.uint8]) -> int:
    """xxh3_64 of an image's shape and pixels, [C, H, W]."""
    import xxhash

    digest = xxhash.xxh3_64(np.array(image.shape, '<i8').tobytes())
    digest.update(np.ascontiguousarray(image).data)
    return digest.intdigest()


def mean_and_std(table: SampleTable) -> tuple[list[float], list[float]]:
    """Of each channel over all pixels of the table's samples, on the scale of 0 to 1."""
    pixels = int((table.shapes[:, 1] * table.shapes[:, 2]).sum())
    if pixels == 0:
        raise ValueError('no pixels to count')
    means, deviations = [], []
    for total, square in zip(table.sums.sum(0).tolist(), table.squares.sum(0).tolist(), strict=True):
        means.append(total / pixels / 255)
        # Python integers: the difference of two large products is exact.
        deviations.append((square * pixels - total * total) ** 0.5 / pixels / 255)
    return means, deviations


def as_image(value: Any) -> NDArray[np.uint8]:
    """A PIL image, or an array [H, W], [H, W, C] or [C, H, W], as uint8 [C, H, W].

    Grey stays one channel; palettes, alpha and the rest become RGB. Raises ``ValueError`` for what is not an image.
    """
    if hasattr(value, 'convert'):  # a PIL image, without importing PIL for arrays
        value = np.asarray(value if value.mode in ('L', 'RGB') else value.convert('RGB'))
    image = np.asarray(value)
    if image.dtype != np.uint8:
        raise ValueError(f'images are uint8, this one is {image.dtype}')
    if image.ndim == 2:
        return np.ascontiguousarray(image[None])
    if image.ndim == 3 and image.shape[2] in (1, 3):
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    if image.ndim == 3 and image.shape[0] in (1, 3):
        return np.ascontiguousarray(image)
    raise ValueError(f'an image is [H, W], [H, W, C] or [C, H, W] with 1 or 3 channels, this one is {image.shape}')


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bilinear, averaging the area where it shrinks, to ``size`` x ``size``; an image of that size is kept."""
    if image.shape[1:] == (size, size):
        return image
    from PIL import Image

    # Pillow's own integer arithmetic: the same pixels on every machine, in the cache and in the stream.
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in image]
    return np.stack([np.asarray(plane) for plane in planes])
