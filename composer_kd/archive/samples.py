"""The samples that an archive knows: id, content hash and label, one row each, in the order in which they came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from composer_kd.archive.table import read_table, write_table
from composer_kd.errors import UserError

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
                f'the training data ({type(dataset).__name__}) has no {error.name}: an archive needs samples with ids '
                f'and content hashes; use data out of shards (composer-kd convert), or live teachers'
            ) from None
        return cls(
            np.asarray(ids, np.int64), np.asarray(content).astype(np.uint64, copy=False), np.asarray(labels, np.int64)
        )

    def __len__(self) -> int:
        return len(self.ids)

    def rows_by_key(self, others: Samples) -> NDArray[np.int64]:
        """For each of ``others`` the row with its id and its content, or -1.

        Both, because the id decides what a view looks like: a sample that was renumbered has other views.
        """
        return self._rows(others, lambda mine, theirs: self.ids[mine] == others.ids[theirs], needed=True)

    def rows_by_content(self, others: Samples) -> NDArray[np.int64]:
        """For each of ``others`` a row with its content and its label, or -1; of identical ones that of its id."""
        labelled = self._rows(others, lambda mine, theirs: self.ids[mine] == others.ids[theirs], needed=False)
        return np.where((labelled >= 0) & (self.labels[labelled] == others.labels), labelled, -1)

    def extended(self, others: Samples) -> Samples:
        """With those of ``others`` that are not there yet added at the end."""
        new = np.flatnonzero(self.rows_by_key(others) < 0)
        if not len(new):
            return self
        return Samples(
            np.concatenate([self.ids, others.ids[new]]),
            np.concatenate([self.content, others.content[new]]),
            np.concatenate([self.labels, others.labels[new]]),
        )

    def _rows(self, others: Samples, fits, needed: bool) -> NDArray[np.int64]:
        if not len(self):
            return np.full(len(others), -1, np.int64)
        order = np.lexsort((self.ids, self.content))
        content = self.content[order]
        first = np.searchsorted(content, others.content, 'left')
        last = np.searchsorted(content, others.content, 'right')
        known = np.flatnonzero(last > first)
        rows = np.full(len(others), -1, np.int64)
        if not needed:
            rows[known] = order[first[known]]
        # Nearly all contents are there once; a pass for each further copy finds the one whose id fits.
        step = 0
        while len(known):
            mine = order[first[known] + step]
            right = fits(mine, known)
            rows[known[right]] = mine[right]
            step += 1
            known = known[~right]
            known = known[first[known] + step < last[known]]
        return rows

    def save(self, path: Path) -> None:
        columns = {'id': self.ids, 'content': self.content.view(np.int64), 'label': self.labels}
        write_table(path, {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()})

    @classmethod
    def load(cls, path: Path) -> Samples:
        table = read_table(path)
        try:
            ids, content, labels = (table[name].numpy() for name in ('id', 'content', 'label'))
        except KeyError as error:
            raise UserError(f'{path}: not a table of samples, it has no column {error}; record anew') from None
        return cls(ids, content.view(np.uint64), labels)

    @classmethod
    def none(cls) -> Samples:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
