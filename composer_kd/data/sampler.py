"""Which sample, in which view, when: pure functions of (seed, epoch), so that resume and ranks agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from composer_kd.data.dataset import KeyedImages
from composer_kd.functional.counter import counter_hash

__all__ = ['EvalSampler', 'TrainSampler']

_ORDER_VERSION = 1


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

    selection: Callable[[int], NDArray[np.bool_]] | None = None
    """Which rows an epoch trains on, one truth value a row; ``None`` for all. The selected rows keep the order that
    they have among all. It is asked for the epoch under way; and, when a training is continued, for the epochs before
    it, of which Composer throws away what comes, so that any rows will do."""

    final_views: tuple[int, int] | None = None
    """(first epoch, views): from that epoch on, the views are 0, 1, ... once more, so that what is recorded at the end
    of a training serves the students whose views begin there."""

    def __init__(self, dataset: KeyedImages, batch_size: int, seed: int, num_replicas: int, rank: int):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, seed=seed, drop_last=True)
        self.samples = dataset
        self.batch_size = batch_size
        self._resize(len(dataset))

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._resize(len(self.samples) if self.selection is None else int(self.selection(epoch).sum()))

    def _resize(self, rows: int) -> None:
        # Whole batches, and at least one: a curriculum may begin with fewer rows than a batch has.
        self.total_size = max(rows // self.batch_size, min(rows, 1)) * self.batch_size
        self.num_samples = self.total_size // self.num_replicas

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All rows that an epoch trains on, in its order.

        Sorted by a hash of (seed, epoch, id): when samples leave the data, the others keep their order.
        """
        ids = torch.from_numpy(self.samples.ids)
        order = counter_hash(_ORDER_VERSION, self.seed, epoch, ids).argsort().numpy()
        if self.selection is None:
            return order
        return order[self.selection(epoch)[order]]

    def view(self, epoch: int) -> int:
        views = self.samples.views
        if self.final_views is not None and epoch >= self.final_views[0]:
            return (epoch - self.final_views[0]) % self.final_views[1]
        return epoch if views is None else epoch % views

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        if len(order) < self.total_size:  # Fewer than a batch: the first ones again.
            order = np.resize(order, self.total_size)
        mine = order[: self.total_size][self.rank :: self.num_replicas]
        return iter((mine + len(self.samples) * self.view(self.epoch)).tolist())


class EvalSampler(DistributedSampler):
    """Every sample in its stored form, in the order of the data, whatever epoch it is told.

    Ranks get equally many: the first samples are repeated at the end, on the last ranks, where Composer's evaluation
    takes them off again. (It also calls ``set_epoch`` with the batch number, which must not become a view.)
    """

    def __init__(self, dataset: KeyedImages, num_replicas: int, rank: int):
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False, drop_last=False)
        self.samples = dataset

    def __iter__(self) -> Iterator[int]:
        length = len(self.samples)
        rows = np.arange(self.rank, self.total_size, self.num_replicas) % length
        return iter((rows - length).tolist())  # view -1
