"""What is known of every sample without its pixels: id, label, content hash, size, and the sums behind mean and std."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer_kd.archive.files import replacing
from composer_kd.errors import UserError

__all__ = ['SampleTable', 'TableBuilder', 'mean_and_std', 'pixel_hash']


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
