"""The samples that an archive knows: id, content hash and label, one row each, in the order in which they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.table import read_table, write_table
from composer_kd.core.errors import UserError

__all__ = ['Samples']


@dataclass(frozen=True)
class Samples:
    """One row a sample; rows are only ever added, so that a row number keeps its meaning.

    Attributes:
        ids: The stored id of the sample; with the view it names its augmentation.
        content: Hash of its stored pixels.
        labels: Its class when it was recorded.
    """

    ids: NDArray[np.int64]
    content: NDArray[np.uint64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: object) -> Samples:
        """The samples of a keyed data set (``ids``, ``content_hashes`` and ``labels``, one of each a sample)."""
        try:
            ids, content, labels = (getattr(dataset, name) for name in ('ids', 'content_hashes', 'labels'))
        except AttributeError as error:
            raise UserError(
                f'the training data ({type(dataset).__name__}) has no {error.name}: what is recorded, chosen or '
                f'weighted sample by sample needs ids and content hashes; use data out of shards (composer-kd convert)'
            ) from None
        return cls(
            np.asarray(ids, np.int64), np.asarray(content).astype(np.uint64, copy=False), np.asarray(labels, np.int64)
        )

    @classmethod
    def none(cls) -> Samples:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Tensor]) -> Samples:
        """Out of the columns of a file, ``id``, ``content`` and ``label``; others are left alone."""
        ids, content, labels = (columns[name].numpy() for name in ('id', 'content', 'label'))
        return cls(ids, content.view(np.uint64), labels)

    def columns(self) -> dict[str, Tensor]:
        """For a file, all int64: safetensors knows unsigned numbers, but not every reader of it does."""
        columns = {'id': self.ids, 'content': self.content.view(np.int64), 'label': self.labels}
        return {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}

    @classmethod
    def load(cls, path: Path) -> Samples:
        columns = read_table(path).columns
        for name in ('id', 'content', 'label'):
            if name not in columns or columns[name].dtype != torch.int64 or columns[name].dim() != 1:
                raise UserError(f'{path}: not a table of samples, it has no column {name} of int64; record anew')
        return cls.from_columns(columns)

    def save(self, path: Path) -> None:
        write_table(path, self.columns())

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> Samples:
        """Some of them, by row numbers or by a mask."""
        return Samples(self.ids[rows], self.content[rows], self.labels[rows])

    def distinct(self) -> NDArray[np.int64]:
        """The rows that no earlier row equals in id and content."""
        return np.flatnonzero(_first_equal(self.ids, self.content) == np.arange(len(self)))

    def rows_by_key(self, others: Samples) -> NDArray[np.int64]:
        """For each of ``others`` the row with its id and its content, or -1.

        Both, because the id decides what a view looks like: a sample that was renumbered has other views.
        """
        return self._rows(others, 'ids', 'content')

    def rows_by_content(self, others: Samples) -> NDArray[np.int64]:
        """For each of ``others`` a row with its content and its label, or -1; of identical ones that of its id."""
        rows = self._rows(others, 'content', 'labels', 'ids')
        return np.where(rows >= 0, rows, self._rows(others, 'content', 'labels'))

    def extended(self, others: Samples) -> Samples:
        """With those of ``others`` that are not there yet added at the end."""
        both = self._with(others)
        rows = both.distinct()
        return both.take(np.concatenate([np.arange(len(self)), rows[rows >= len(self)]]))

    def _with(self, others: Samples) -> Samples:
        pairs = ((getattr(self, name), getattr(others, name)) for name in ('ids', 'content', 'labels'))
        return Samples(*(np.concatenate(pair) for pair in pairs))

    def _rows(self, others: Samples, *names: str) -> NDArray[np.int64]:
        both = self._with(others)
        rows = _first_equal(*(getattr(both, name) for name in names))[len(self) :]
        return np.where(rows < len(self), rows, -1)


def _first_equal(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """For each row the first row that equals it in all columns; its own number where none before it does."""
    order = np.lexsort(columns)  # stable: equal rows stay in their order
    begins = np.zeros(len(order), bool)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[order[1:]] != column[order[:-1]]
    first = np.empty(len(order), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first
