"""Who is there while drifts change it: the samples of one part of the data, their labels, and what the classes are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import UserError
from composer_kd.functional.counter import counter_hash, uniform

__all__ = ['PARTS', 'Part', 'Population', 'split_seed', 'within']

Part = Literal['train', 'val', 'test']
PARTS: tuple[Part, ...] = ('train', 'val', 'test')

# Tell the draws of one purpose from those of another with the same seed.
_CHOICE, _SHARE = 1, 2


@dataclass(frozen=True)
class Population:
    """The samples of a part, one entry each, in the order of their ids.

    Attributes:
        part: ``'train'``, ``'val'`` or ``'test'``.
        rows: Their places in the part as it was before any drift.
        ids: Their ids, unique in the train and validation parts together, and in the test part.
        hashes: Of their pixels as they were before any drift.
        labels: Their classes.
        classes: The name of each class.
        superclasses: The names of the coarser classes, if there are any.
        coarse: The superclass of each class.
        known: Which classes there are at all by now, bool [classes].
        fine: The finer class that a sample was of before its class became a coarser one, if there is such.
        fine_classes: The names of these.
    """

    part: Part
    rows: NDArray[np.int64]
    ids: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    superclasses: tuple[str, ...] | None
    coarse: tuple[int, ...] | None
    known: NDArray[np.bool_]
    fine: NDArray[np.int64] | None = None
    fine_classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: NDArray[Any]) -> Population:
        """Some of them, by ascending places or by a mask."""
        columns = {name: getattr(self, name)[chosen] for name in ('rows', 'ids', 'hashes', 'labels')}
        return replace(self, **columns, fine=None if self.fine is None else self.fine[chosen])

    def merged(self, other: Population) -> Population:
        """These and others of the same part, in the order of their rows."""
        if self.classes != other.classes:
            raise UserError(
                f'its two ends have other classes ({len(self.classes)} and {len(other.classes)}); let both have those '
                f'of one task'
            )
        both = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ('rows', 'ids', 'hashes', 'labels')
        }
        fine, fine_classes = None, None
        if self.fine is not None and other.fine is not None and self.fine_classes == other.fine_classes:
            fine, fine_classes = np.concatenate([self.fine, other.fine]), self.fine_classes
        everyone = replace(self, **both, known=self.known | other.known, fine=fine, fine_classes=fine_classes)
        return everyone.only(np.argsort(everyone.rows, kind='stable'))

    def sizes(self) -> NDArray[np.int64]:
        """How many samples each class has."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def lowest(self, quotas: NDArray[np.int64], seed: int) -> Population:
        """Of each class as many as its quota: those with the lowest hashes of ``seed`` and content.

        A larger quota keeps everyone that a smaller one keeps, and copies of one image stay together as far as it goes.
        """
        drawn = counter_hash(_CHOICE, seed, torch.from_numpy(self.hashes.view(np.int64))).numpy().view(np.uint64)
        order = np.lexsort((self.ids, drawn, self.labels))
        starts = np.concatenate([[0], np.cumsum(self.sizes())[:-1]])
        place = np.arange(len(order)) - starts[self.labels[order]]
        return self.only(np.sort(order[place < quotas[self.labels[order]]]))


def split_seed(seed: int, part: Part) -> int:
    """A seed for each split: ids of the test split begin at 0 as those of the training split do."""
    return 2 * seed + (part == 'test')


def within(ids: Tensor, share: float, seed: int) -> NDArray[np.bool_]:
    """Which ids are of a share of all: those of a smaller share are among those of a larger one."""
    return (uniform(_SHARE, seed, ids) < share).numpy()
