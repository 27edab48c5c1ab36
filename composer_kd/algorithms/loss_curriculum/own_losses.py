"""The losses of the run itself: last loss of each sample, frozen while an epoch runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from composer.utils import dist
from torch import Tensor

from composer_kd.archive.samples import Samples
from composer_kd.errors import UserError
from composer_kd.functional.counter import counter_hash
from composer_kd.models.sample_losses import StepLosses

__all__ = ['OwnLosses', 'with_nan', 'without_nan']


class OwnLosses:
    """Two tables with one loss a sample, NaN where there is none: the one that decides, and the next one in progress.

    The first changes between epochs alone, so that what an epoch trains on is a pure function of it. Both are whole
    over all ranks whenever they are saved.

    Args:
        owner: How error lines call the algorithm.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._samples = Samples.none()
        self._steps: list[StepLosses] = []
        self.last = torch.zeros(0)
        """The loss of each sample in the last finished epoch that trained on it, float32 ``[n]``."""
        self._coming = torch.zeros(0)
        self._digest: int | None = None

    def start(self, samples: Samples) -> None:
        """Begin, or go on with what a checkpoint told, if it told of these samples."""
        digest = int(counter_hash(torch.from_numpy(samples.ids)).sum())
        if self._digest is None:
            self.last = torch.full((len(samples),), torch.nan)
            self._coming = self.last.clone()
        elif (len(self.last), self._digest) != (len(samples), digest):
            raise UserError(
                f'{self._owner}: the checkpoint holds the losses of {len(self.last)} other samples, the training data '
                f'has {len(samples)}; continue on the data that the run began with'
            )
        self._samples, self._digest = samples, digest

    def add(self, step: StepLosses) -> None:
        # Kept as they are, on the device: nothing is looked up or read back in a step.
        self._steps.append(step)

    def end_epoch(self) -> None:
        """What was in progress decides from now on; samples that the epoch left out keep the loss that they had."""
        self._gather()
        self.last = torch.where(self._coming.isnan(), self.last, self._coming)
        self._coming = torch.full_like(self.last, torch.nan)

    def _gather(self) -> None:
        """Enter the steps of all ranks into the table in progress, which is then the same everywhere."""
        parts = [self._entries()]
        if dist.get_world_size() > 1:
            parts = dist.all_gather_object(parts[0])
        self._steps = []
        for rows, losses in parts:
            self._coming[torch.from_numpy(rows)] = torch.from_numpy(losses)

    def _entries(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._steps:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        ids = torch.cat([step.keys[:, 0] for step in self._steps]).cpu().numpy()
        losses = torch.cat([step.loss for step in self._steps]).cpu().numpy()
        by_id = np.argsort(self._samples.ids, kind='stable')
        place = np.searchsorted(self._samples.ids, ids, sorter=by_id)
        rows = by_id[np.minimum(place, len(by_id) - 1)]
        strange = self._samples.ids[rows] != ids
        if strange.any():
            raise UserError(
                f'{self._owner}: the batches have a sample with id {ids[strange][0]}, which the training data set does '
                f'not list among its ids'
            )
        return rows, losses

    def state_dict(self) -> dict[str, Any]:
        # Composer calls this on every rank, and writes what rank 0 returns.
        self._gather()
        return {'last': without_nan(self.last), 'coming': without_nan(self._coming), 'digest': self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last, self._coming, self._digest = with_nan(state['last']), with_nan(state['coming']), state['digest']
        self._steps = []


def without_nan(values: Tensor) -> dict[str, Tensor]:
    """Split values into numbers and what is known, for a checkpoint: NaN differs from itself when two are compared."""
    known = ~values.isnan()
    return {'values': torch.where(known, values, 0.0), 'known': known}


def with_nan(saved: dict[str, Tensor]) -> Tensor:
    """Put back what :func:`without_nan` has split."""
    return torch.where(saved['known'], saved['values'], torch.nan)
