"""Weights of samples, put on the label loss of every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from composer.core import State, get_precision_context
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.errors import UserError
from composer_kd.models.batch import keys_of, total_of
from composer_kd.models.classifier import unwrapped

__all__ = ['SampleWeights']


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
        total = total_of(state.loss) + ((weights - 1) * losses).mean()
        state.loss = {**state.loss, 'total': total} if isinstance(state.loss, dict) else total
