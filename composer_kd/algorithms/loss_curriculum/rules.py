"""What an epoch trains on: three rules, each a pure function of what stands when the epoch begins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from composer_kd.errors import UserError
from composer_kd.functional.curriculum import pace, places, prune, share_weights, top_share, within_share
from composer_kd.schedule import Progress, Schedule

__all__ = ['Choice', 'InfoBatch', 'Paced', 'Rho', 'Rule', 'Situation', 'ramp']


@dataclass(frozen=True)
class Situation:
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
class Choice:
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
    def choose(self, situation: Situation) -> Choice:
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

    def choose(self, situation: Situation) -> Choice:
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
            return Choice(rows, None, share, situation.stored)
        weights = share_weights(place, share)
        if self.unseen == 'exclude':
            weights = weights.masked_fill(unseen, 0.0)
            weights = weights / weights.mean()
        equal = bool((weights == 1).all())
        return Choice(torch.ones_like(unseen), None if equal else weights, share, situation.stored)


@dataclass(frozen=True)
class InfoBatch(Rule):
    """Leave out, at random, part of what has a loss below the mean; what stays of it is weighted up."""

    probability: float
    schedule: Schedule

    needs_archive = False
    needs_own_losses = True
    selects = True
    weighs = True

    def choose(self, situation: Situation) -> Choice:
        own = situation.own
        everything = torch.ones(len(own), dtype=torch.bool)
        if own.isnan().all() or not self.schedule.weight(situation.progress):
            return Choice(everything, None, 1.0, own)
        rows, weights = prune(own, situation.ids, self.probability, situation.seed, situation.progress.epoch)
        return Choice(rows, weights, float(rows.double().mean()), own)


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

    def choose(self, situation: Situation) -> Choice:
        own, unseen = situation.own, situation.stored.isnan()
        scores = own - situation.stored
        if own.isnan().all():
            rows = torch.ones(len(own), dtype=torch.bool)
        else:
            # What had no loss of its own yet, the rest after an epoch's whole batches, cannot be ranked: it is trained.
            rows = top_share(scores, situation.ids, self.keep) | (own.isnan() & ~unseen)
        rows = rows | unseen if self.unseen == 'include' else rows & ~unseen
        return Choice(rows, None, float(rows.double().mean()), scores)


def ramp(point: str, where: str, decay: str = ', linear decay') -> Schedule:
    """The schedule from the beginning of a training to a point in it, such as ``'0.5dur'``."""
    try:
        return Schedule(f'first {point}{decay}')
    except UserError:
        raise UserError(
            f"{where}: {point!r} is not a point of the training; write '0.5dur', '10ep' or '500ba'"
        ) from None
