"""Learning rates that do not notice that epochs have changing lengths."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from composer.core import State, Time, TimeUnit
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from composer_kd.archive import Archive, aligned
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import ArchiveTable
from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress, Schedule
from composer_kd.data.sampler import TrainSampler
from composer_kd.functional.curriculum import pace, places, prune, share_weights, top_share, within_share

__all__ = [
    'EpochSelection',
    'FullEpochSchedulers',
    'InfoBatch',
    'Paced',
    'Rho',
    'Rule',
    'RuleContext',
    'SelectedEpochs',
    'check_statistic',
    'difficulties',
    'ramp',
]


class FullEpochSchedulers:
    """Shows Composer's schedulers a training whose epochs all have their full length.

    Composer turns ``ep`` and ``dur`` into batches by the length of the epoch under way, so that a training whose epochs
    grow would see its milestones move away again. Between :meth:`start` and :meth:`stop` a scheduler sees batch
    ``(epoch + batch in epoch / length) * full length`` of epochs of the full length. A duration in batches is right as
    it is and left alone, as are PyTorch's own schedulers, which count their steps.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[LambdaLR, list[Callable]]] = []

    def start(self, state: State, full_length: int) -> None:
        self.stop()
        if state.max_duration is None or state.max_duration.unit != TimeUnit.EPOCH:
            return
        for scheduler in state.schedulers:
            if isinstance(scheduler, LambdaLR):
                self._replaced.append((scheduler, scheduler.lr_lambdas))
                scheduler.lr_lambdas = [_steady(rate, state, full_length) for rate in scheduler.lr_lambdas]

    def stop(self) -> None:
        for scheduler, rates in self._replaced:
            scheduler.lr_lambdas = rates
        self._replaced = []


def _steady(rate: Callable, state: State, full_length: int) -> Callable:
    # A function, not an object: LambdaLR writes what objects hold into the checkpoint.
    def steady(step: int) -> float:
        now, length = state.timestamp, state.dataloader_len
        if not length:
            return rate(step)
        in_epoch = int(now.batch_in_epoch) * full_length // int(length)
        state.timestamp = now.copy(batch=int(now.epoch) * full_length + in_epoch, batch_in_epoch=in_epoch)
        # Not by its setter, which would cut it to what the loader has in this epoch.
        state._dataloader_len = Time(full_length, TimeUnit.BATCH)
        try:
            return rate(step)
        finally:
            state.timestamp, state._dataloader_len = now, length

    return steady


@dataclass(frozen=True)
class RuleContext:
    """What a rule may look at.

    Attributes:
        seed: Of the run.
        progress: At the epoch's start.
        ids: int64 ``[n]``.
        labels: int64 ``[n]``.
        stored: What the archive says of each sample, float64 ``[n]``, NaN where it says nothing.
        own: The last loss of each sample in this run, float64 ``[n]``, NaN where it had none yet.
    """

    seed: int
    progress: Progress
    ids: Tensor
    labels: Tensor
    stored: Tensor
    own: Tensor


@dataclass(frozen=True)
class EpochSelection:
    """What an epoch trains on.

    Attributes:
        rows: Which samples, bool ``[n]``.
        weights: Of their label losses, ``[n]``; ``None`` where all are 1.
        fraction: The share of the data that is in use.
        scores: What was chosen by, float64 ``[n]``; NaN where a sample has none.
    """

    rows: Tensor
    weights: Tensor | None
    fraction: float
    scores: Tensor

    @property
    def difficulty(self) -> float | None:
        """The mean score of what is trained on, as weighted; ``None`` where nothing has a score."""
        weights = self.rows.double() if self.weights is None else self.rows * self.weights.double()
        weights = torch.where(self.scores.isfinite(), weights, 0.0)
        return float((weights * self.scores.nan_to_num(0.0, 0.0, 0.0)).sum() / weights.sum()) if weights.any() else None


class Rule(ABC):
    """One way to choose."""

    needs_archive: bool
    needs_own_losses: bool
    selects: bool
    """Whether it leaves samples out, so that epochs have changing lengths."""
    weighs: bool
    """Whether it weights the label losses of samples."""
    schedule: Schedule | None
    """What it needs to know of the training's length."""

    @abstractmethod
    def choose(self, situation: RuleContext) -> EpochSelection:
        """What the epoch that begins trains on."""


@dataclass(frozen=True)
class Paced(Rule):
    """The easiest share of the data by an earlier run's losses, or the hardest, growing to all of it."""

    order: str
    pacing: str
    start: float
    schedule: Schedule
    use: str
    unseen: str
    balanced: bool

    needs_archive = True
    needs_own_losses = False
    selects = property(lambda self: self.use == 'selection')  # type: ignore[assignment]
    weighs = property(lambda self: self.use == 'weights')  # type: ignore[assignment]

    def choose(self, situation: RuleContext) -> EpochSelection:
        # A decay from 1 to 0, seen from the other side.
        share = pace(self.pacing, self.start, 1.0 - self.schedule.weight(situation.progress))
        values = situation.stored
        unseen = values.isnan()
        if self.unseen in ('easy', 'hard'):
            values = values.masked_fill(unseen, torch.inf if self.unseen == 'hard' else -torch.inf)
        place = places(
            values if self.order == 'easy_first' else -values,
            situation.ids,
            situation.labels if self.balanced else None,
        )
        if self.use == 'selection':
            rows = within_share(place, share) | (unseen & (self.unseen == 'include'))
            return EpochSelection(rows, None, share, situation.stored)
        weights = share_weights(place, share)
        if self.unseen == 'exclude':
            weights = weights.masked_fill(unseen, 0.0)
            weights = weights / weights.mean()
        equal = bool((weights == 1).all())
        return EpochSelection(torch.ones_like(unseen), None if equal else weights, share, situation.stored)


@dataclass(frozen=True)
class InfoBatch(Rule):
    """Leave out, at random, part of what has a loss below the mean; what stays of it is weighted up."""

    probability: float
    schedule: Schedule

    needs_archive = False
    needs_own_losses = True
    selects = True
    weighs = True

    def choose(self, situation: RuleContext) -> EpochSelection:
        own = situation.own
        everything = torch.ones(len(own), dtype=torch.bool)
        if own.isnan().all() or not self.schedule.weight(situation.progress):
            return EpochSelection(everything, None, 1.0, own)
        rows, weights = prune(own, situation.ids, self.probability, situation.seed, situation.progress.epoch)
        return EpochSelection(rows, weights, float(rows.double().mean()), own)


@dataclass(frozen=True)
class Rho(Rule):
    """The samples whose own loss exceeds the stored one most: what this run can still learn, an earlier one has."""

    keep: float
    unseen: str

    needs_archive = True
    needs_own_losses = True
    selects = True
    weighs = False
    schedule = None

    def choose(self, situation: RuleContext) -> EpochSelection:
        own, unseen = situation.own, situation.stored.isnan()
        scores = own - situation.stored
        if own.isnan().all():
            rows = torch.ones(len(own), dtype=torch.bool)
        else:
            # What had no loss of its own yet, the rest after an epoch's whole batches, cannot be ranked: it is trained.
            rows = top_share(scores, situation.ids, self.keep) | (own.isnan() & ~unseen)
        rows = rows | unseen if self.unseen == 'include' else rows & ~unseen
        return EpochSelection(rows, None, float(rows.double().mean()), scores)


def ramp(point: str, where: str, decay: str = ', linear decay') -> Schedule:
    """The schedule from the beginning of a training to a point in it, such as ``'0.5dur'``."""
    try:
        return Schedule(f'first {point}{decay}')
    except UserError:
        raise UserError(
            f"{where}: {point!r} is not a point of the training; write '0.5dur', '10ep' or '500ba'"
        ) from None


def check_statistic(statistic: str) -> None:
    """Refuse what :func:`difficulties` cannot compute."""
    if statistic not in ('last', 'mean', 'forgetting') and not re.fullmatch(r'epoch \d+', str(statistic)):
        raise UserError(f"statistic: {statistic!r} is not one; write 'last', 'mean', 'epoch 5' or 'forgetting'")


def difficulties(archive: Archive, samples: Samples, statistic: str) -> Tensor:
    """The difficulty of each sample, float64, NaN for those that the archive never saw.

    ================  ===============================================================================================
    ``'last'``        the loss in the last epoch that saw the sample
    ``'mean'``        the mean of its losses, over the epochs that saw it
    ``'epoch 5'``     its loss in that epoch, counted from 0
    ``'forgetting'``  how often it went from right to wrong between one epoch that saw it and the next that did
                      (Toneva et al, 2019). A sample that was never right is harder than all that were: it counts as
                      the number of recorded epochs, which no sample reaches by forgetting
    ================  ===============================================================================================

    Samples are found by content and label: what their ids are today does not matter.

    Args:
        archive: Of the earlier run.
        samples: The training data now.
        statistic: As above.
    """
    epochs = archive.require('loss')
    rows = archive.samples().rows_by_content(samples)
    if statistic.startswith('epoch '):
        epochs = [int(statistic.removeprefix('epoch '))]
    tables = (aligned(archive.table('loss', epoch), rows) for epoch in epochs)
    nothing = torch.full((len(samples),), torch.nan, dtype=torch.float64)
    if statistic == 'forgetting':
        return _forgetting(list(tables), nothing)
    total, count, last = torch.zeros_like(nothing), torch.zeros_like(nothing), nothing
    for table in tables:
        seen = table['seen'].bool()
        loss = table['loss'].double()
        total, count, last = total + torch.where(seen, loss, 0.0), count + seen, torch.where(seen, loss, last)
    return total / count if statistic == 'mean' else last  # 0 / 0 is NaN: never seen.


def _forgetting(tables: list[ArchiveTable], nothing: Tensor) -> Tensor:
    events = torch.zeros_like(nothing)
    was_right = torch.zeros(len(nothing), dtype=torch.bool)
    ever_right, ever_seen = was_right.clone(), was_right.clone()
    for table in tables:
        seen, right = table['seen'].bool(), table['correct'].bool()
        events += seen & was_right & ~right
        was_right = torch.where(seen, right, was_right)
        ever_right |= seen & right
        ever_seen |= seen
    events = torch.where(ever_right, events, float(len(tables)))
    return torch.where(ever_seen, events, nothing)


class SelectedEpochs:
    """Lets epochs train on a part of the data, between :meth:`start` and :meth:`stop`.

    Composer reads a loader's length once; it is told again whenever the selection changes.

    Args:
        owner: How error lines call the algorithm.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._rates = FullEpochSchedulers()
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
