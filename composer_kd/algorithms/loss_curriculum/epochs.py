"""Epochs of a selection: the loader's sampler, Composer's idea of their length, and the learning rates."""

from __future__ import annotations

import numpy as np
from composer.core import State, TimeUnit
from numpy.typing import NDArray

from composer_kd.algorithms.loss_curriculum.steady_rates import SteadyRates
from composer_kd.data.sampler import TrainSampler
from composer_kd.errors import UserError

__all__ = ['SelectedEpochs']


class SelectedEpochs:
    """Lets epochs train on a part of the data, between :meth:`start` and :meth:`stop`.

    Composer reads a loader's length once; it is told again whenever the selection changes.

    Args:
        owner: How error lines call the algorithm.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._rates = SteadyRates()
        self._sampler: TrainSampler | None = None
        self._full_length = 0
        self._rows = np.zeros(0, bool)

    def start(self, state: State) -> None:
        """Take the training loader over; refuse one, or a duration, that does not allow it."""
        sampler = getattr(state.train_dataloader, 'sampler', None)
        if not isinstance(sampler, TrainSampler):
            raise UserError(
                f'{self._owner}: the sampler of the training loader is a {type(sampler).__name__}, which cannot leave '
                f"samples out; use data out of composer_kd.data.open_data, or a curriculum with use='weights'"
            )
        assert state.max_duration is not None
        assert state.dataloader_len is not None
        if state.max_duration.unit not in (TimeUnit.EPOCH, TimeUnit.BATCH):
            raise UserError(
                f'{self._owner}: max_duration is {state.max_duration.to_timestring()}, and epochs change their length; '
                f'give it in ep or ba'
            )
        self._sampler = sampler
        # Less than the loader has where Composer was told train_subset_num_batches.
        self._full_length = int(state.dataloader_len)
        self._rates.start(state, self._full_length)

    def select(self, rows: NDArray[np.bool_], state: State) -> None:
        """The epoch under way trains on these rows."""
        if self._sampler is None:
            return
        self._rows = rows
        self._sampler.selection = self._selection
        # Composer sets the sampler's epoch itself, but only after the length has been asked for.
        self._sampler.set_epoch(int(state.timestamp.epoch))
        state.dataloader_len = min(self._full_length, len(state.train_dataloader))  # type: ignore[arg-type]

    def stop(self, state: State) -> None:
        """Leave loader and schedulers as they were found: another fit, or another Trainer, may want all data."""
        self._rates.stop()
        if self._sampler is not None and self._sampler.selection == self._selection:
            self._sampler.selection = None
            self._sampler.set_epoch(int(state.timestamp.epoch))
            if state.dataloader is not None and state.dataloader is state.train_dataloader:
                state.dataloader_len = self._full_length
        self._sampler = None

    def _selection(self, epoch: int) -> NDArray[np.bool_]:
        return self._rows
