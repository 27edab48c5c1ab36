"""The losses of the run itself: last loss of each sample, frozen while an epoch runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from composer.core import State, get_precision_context
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.functional.counter import counter_hash
from composer_kd.models.batch import keys_of, total_loss
from composer_kd.models.classifier import unwrapped
from composer_kd.models.sample_losses import StepLosses

__all__ = ['CurrentLosses', 'SampleWeights', 'with_nan', 'without_nan']


class CurrentLosses:
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


class SampleWeights:
    """Weights the loss of each sample of a batch, which is known by the id in its key.

    Args:
        owner: How error lines call the algorithm.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._ids = self._weights = torch.zeros(0)
        self._order = torch.zeros(0, dtype=torch.int64)
        self.on = False
        """Whether there are weights other than 1."""

    def start(self, ids: NDArray[np.int64], state: State) -> None:
        """Look at the model, and keep the ids where the batches will be."""
        model = unwrapped(state.model)
        if not hasattr(model, 'per_sample_loss'):
            raise UserError(
                f'{self._owner}: weights need the loss of each sample, and {type(model).__name__} has no '
                f'per_sample_loss(outputs, batch); wrap the net with composer_kd.models.classifier'
            )
        in_order, self._order = torch.from_numpy(ids).sort()
        self._ids = state.device.tensor_to_device(in_order)
        self.on = False

    def set(self, weights: Tensor | None, state: State) -> None:
        """One weight a sample, in the order of the ids that :meth:`start` was given; ``None``: all are 1."""
        self.on = weights is not None
        if weights is not None:
            self._weights = state.device.tensor_to_device(weights[self._order].float())

    def apply(self, state: State) -> None:
        """Weight the microbatch's loss, at AFTER_LOSS."""
        keys = keys_of(state.batch)
        if keys is None:
            raise UserError(
                f'{self._owner}: the training batches are not (image, label, key): weights of samples need their ids; '
                f'use data out of shards (composer-kd convert, composer_kd.data.open_data)'
            )
        weights = self._weights[torch.searchsorted(self._ids, keys[:, 0].contiguous())]
        model: Any = unwrapped(state.model)
        with get_precision_context(state.precision, state.precision_config):
            losses = model.per_sample_loss(state.outputs, state.batch)
        # A sum: the loss itself stays, whatever else is in it, and the difference that the weights make is added.
        total = total_loss(state.loss) + ((weights - 1) * losses).mean()
        state.loss = {**state.loss, 'total': total} if isinstance(state.loss, dict) else total
