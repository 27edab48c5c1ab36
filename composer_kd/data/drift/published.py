"""The published files of CIFAR-10-C and CIFAR-100-C: ``KIND.npy`` [5 N, 32, 32, 3], one severity after another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.files import xxh3_of
from composer_kd.errors import UserError
from composer_kd.functional.corruptions import SEVERITIES

__all__ = ['PublishedFile']


@dataclass(frozen=True)
class PublishedFile:
    """``KIND.npy`` and ``labels.npy`` in a folder; row ``(severity - 1) * N + i`` is the test image with id i."""

    folder: Path
    kind: str

    @property
    def path(self) -> Path:
        return self.folder / f'{self.kind}.npy'

    @property
    def hash(self) -> str:
        """Of the images' file."""
        _present(self.path)
        facts = self.path.stat()
        return _hash_of(self.path, facts.st_size, facts.st_mtime_ns)

    def check_there(self) -> None:
        """Refuse a folder without the two files."""
        for path in (self.path, self.folder / 'labels.npy'):
            _present(path)

    def check(self, ids: NDArray[np.int64], labels: NDArray[np.int64], shape: tuple[int, ...]) -> None:
        """Refuse files that are not of this test split: of another number, shape or order of images."""
        count = len(ids)
        if not np.array_equal(np.sort(ids), np.arange(count)):
            raise UserError(f'{self.folder}: its rows are test images 0 to N - 1, and the ids of this test split are '
                            f'others; convert the data again with composer-kd convert')  # fmt: skip
        images, expected = _open(self.path), (SEVERITIES * count, *shape[1:], shape[0])
        if images.dtype != np.uint8 or images.shape != expected:
            raise UserError(
                f'{self.path}: it holds {images.dtype} {list(images.shape)}; uint8 {list(expected)} is needed, '
                f'{SEVERITIES} severities of {count} test images'
            )
        path = self.folder / 'labels.npy'
        published = _open(path)
        if published.shape != (SEVERITIES * count,):
            raise UserError(f'{path}: it holds {list(published.shape)} labels; {SEVERITIES * count} are needed')
        ours = np.empty(count, np.int64)
        ours[ids] = labels
        if (published.reshape(SEVERITIES, count) != ours).any():
            raise UserError(f'{path}: these are not the labels of the test split; name the files of this data set')

    def images(self, severity: int, ids: Tensor) -> Tensor:
        """The images [B, C, H, W] of these ids at a severity from 1 to 5."""
        stored = _open(self.path)
        rows = (severity - 1) * (len(stored) // SEVERITIES) + ids.numpy()
        return torch.from_numpy(np.ascontiguousarray(stored[rows].transpose(0, 3, 1, 2)))


def _present(path: Path) -> None:
    if not path.is_file():
        raise UserError(f'{path}: no such file; files names a folder with KIND.npy and labels.npy as published')


def _open(path: Path) -> NDArray[Any]:
    _present(path)
    try:
        return np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path}: not an .npy file that can be read ({error}); fetch it again') from None


@lru_cache(maxsize=64)
def _hash_of(path: Path, size: int, modified: int) -> str:
    return xxh3_of(path)
