"""Which sample, in which view, when: pure functions of (seed, epoch), so that resume and ranks agree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from composer_kd.data.dataset import KeyedImages
from composer_kd.functional.counter import counter_hash

__all__ = ['EvalSampler', 'TrainSampler', 'pack', 'unpack']

_ORDER_VERSION = 1


def pack(rows: NDArray[np.int64], view: int, length: int) -> NDArray[np.int64]:
    """One integer for a row and its view; negative for view -1."""
    return rows + length * view


def unpack(packed: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and views out of packed integers; flooring division gives view -1 back."""
    views, rows = np.divmod(packed, length)
    return rows, views


class TrainSampler(DistributedSampler):
    """A new order every epoch, in the view of that epoch, cut to whole global batches.

    Rank r of W takes every W-th sample of the order, so the ranks' batches of one step make up the batch that a single
    rank would have had.

    Args:
        dataset: The training samples.
        batch_size: Over all ranks.
        seed: Of the order.
        num_replicas: Number of ranks.
        rank: This rank.
    """

    def __init__(self, dataset: KeyedImages, batch_size: int, seed: int, num_replicas: int, rank: int):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed, drop_last=True)
        self.total_size = len(dataset) // batch_size * batch_size
        self.num_samples = self.total_size // num_replicas

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All rows of the data set in the order of an epoch.

        Sorted by a hash of (seed, epoch, id): when samples leave the data, the others keep their order.
        """
        ids = torch.from_numpy(self.dataset.ids)
        return counter_hash(_ORDER_VERSION, self.seed, epoch, ids).argsort().numpy()

    def view(self, epoch: int) -> int:
        views = self.dataset.views
        return epoch if views is None else epoch % views

    def __iter__(self) -> Iterator[int]:
        mine = self.order(self.epoch)[: self.total_size][self.rank :: self.num_replicas]
        return iter(pack(mine, self.view(self.epoch), len(self.dataset)).tolist())


class EvalSampler(DistributedSampler):
    """Every sample in its stored form, in the order of the data, whatever epoch it is told.

    Ranks get equally many: the first samples are repeated at the end, on the last ranks, where Composer's evaluation
    takes them off again. (It also calls ``set_epoch`` with the batch number, which must not become a view.)
    """

    def __init__(self, dataset: KeyedImages, num_replicas: int, rank: int):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False, drop_last=False)

    def __iter__(self) -> Iterator[int]:
        length = len(self.dataset)
        rows = np.arange(self.total_size) % length
        return iter(pack(rows[self.rank :: self.num_replicas], -1, length).tolist())
