"""The three measures as pure functions: accuracy at fixed epochs, epochs to reach an accuracy, cost of reaching it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    'COSTS',
    'MEASURES',
    'Cost',
    'Curve',
    'Measure',
    'Reach',
    'Spread',
    'best',
    'common_epochs',
    'costs_at',
    'cumulative',
    'curve',
    'default_epochs',
    'default_thresholds',
    'first_epoch_at',
    'guessing_limit',
    'label_loss',
    'reach',
    'series',
    'speed_up',
]

Epochs = Sequence[Mapping[str, Any]]
Series = dict[int, float]

# Accuracies come out of float32 counters (0.01 as 0.00999999978) and must reach the threshold they are equal to;
# a single sample more or less in a million still counts.
_TOLERANCE = 5e-7


@dataclass(frozen=True)
class Measure:
    """An accuracy that is reported. The two training accuracies differ; neither ever stands in for the other."""

    name: str
    key: str
    title: str


MEASURES = (
    Measure('test', 'test_accuracy', 'test accuracy'),
    Measure('val', 'val_accuracy', 'validation accuracy'),
    Measure('train_running', 'train_accuracy_running', 'training accuracy, running'),
    Measure('train_clean', 'train_accuracy_clean', 'training accuracy, clean'),
)


@dataclass(frozen=True)
class Cost:
    """Something that reaching an accuracy takes."""

    name: str
    title: str


COSTS = (
    Cost('epochs', 'epochs'),
    Cost('seconds', 'training time'),
    Cost('multiply_adds', 'multiply-adds'),
)


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds; ``sd`` is ``None`` for a single one."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Over the values that exist; ``None`` where none does."""
        present = [value for value in values if value is not None]
        if not present:
            return None
        sd = statistics.stdev(present) if len(present) > 1 else None
        return cls(statistics.fmean(present), sd, len(present))


@dataclass(frozen=True)
class Reach:
    """What it took the runs of one arm to reach one threshold.

    ``reached`` of ``of`` runs did; the spreads are over those alone, so a mean with ``reached < of`` flatters the arm.
    """

    threshold: float
    reached: int
    of: int
    epochs: Spread | None
    seconds: Spread | None
    multiply_adds: Spread | None

    @property
    def complete(self) -> bool:
        return 0 < self.reached == self.of

    def cost(self, name: str) -> Spread | None:
        return getattr(self, name)


@dataclass(frozen=True)
class Curve:
    """Mean and standard deviation over seeds along the epochs that every run has."""

    epochs: tuple[int, ...]
    x: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float | None, ...]
    n: int


def series(epochs: Epochs, key: str) -> Series:
    """The values of ``key`` by epoch, where there are any."""
    return {
        record['epoch']: float(record[key])
        for record in epochs
        if isinstance(record.get(key), (int, float)) and not isinstance(record[key], bool)
    }


def label_loss(epochs: Epochs) -> Series:
    """The training loss against the labels alone, which is comparable between arms.

    A run without a distillation term may log only its total, which then is the same thing.
    """
    values = series(epochs, 'loss_label')
    if not values and not series(epochs, 'loss_distill'):
        return series(epochs, 'loss_total')
    return values


def cumulative(epochs: Epochs, total: str, per_epoch: str | None = None) -> Series:
    """The running total ``total``; summed up from ``per_epoch`` where it is missing and no epoch has a gap."""
    totals = series(epochs, total)
    if totals or per_epoch is None:
        return totals
    parts = series(epochs, per_epoch)
    summed: Series = {}
    amount = 0.0
    for epoch in range(1, len(epochs) + 1):
        if epoch not in parts:
            break
        amount += parts[epoch]
        summed[epoch] = amount
    return summed


def costs_at(epochs: Epochs) -> dict[str, Series]:
    """What a run had spent by the end of each epoch: for every cost, and its parts that teachers and attacks caused.

    Seconds are those of training, teachers and attacks inside and evaluation apart; multiply-adds are the student's,
    the teachers', those of attacks on the student, and what algorithms compute besides.
    """
    student = cumulative(epochs, 'multiply_adds_student_total')
    teacher = cumulative(epochs, 'multiply_adds_teacher_total')
    attack = cumulative(epochs, 'multiply_adds_attack_total')
    other = cumulative(epochs, 'multiply_adds_other_total')
    return {
        'epochs': {record['epoch']: float(record['epoch']) for record in epochs},
        'seconds': cumulative(epochs, 'seconds_train_total', 'seconds_train'),
        'seconds_teacher': cumulative(epochs, 'seconds_teacher_total', 'seconds_teacher'),
        'seconds_attack': cumulative(epochs, 'seconds_attack_total', 'seconds_attack'),
        'seconds_eval': cumulative(epochs, 'seconds_eval_total', 'seconds_eval'),
        'multiply_adds': {
            epoch: amount + teacher.get(epoch, 0.0) + attack.get(epoch, 0.0) + other.get(epoch, 0.0)
            for epoch, amount in student.items()
            if not teacher or epoch in teacher
        },
        'multiply_adds_teacher': teacher,
        'multiply_adds_attack': attack,
    }


def first_epoch_at(values: Series, threshold: float) -> int | None:
    """The first epoch at or above ``threshold``, or ``None``. Nothing is interpolated."""
    return min((epoch for epoch, value in values.items() if value >= threshold - _TOLERANCE), default=None)


def best(values: Series) -> tuple[int, float] | None:
    """Epoch and value of the maximum, the earliest one."""
    return max(values.items(), key=lambda item: (item[1], -item[0]), default=None)


def reach(runs: Sequence[Epochs], key: str, threshold: float) -> Reach:
    """What reaching ``threshold`` in ``key`` took the runs of an arm."""
    spent: dict[str, list[float | None]] = {cost.name: [] for cost in COSTS}
    reached = 0
    for epochs in runs:
        epoch = first_epoch_at(series(epochs, key), threshold)
        if epoch is None:
            continue
        reached += 1
        totals = costs_at(epochs)
        for name, values in spent.items():
            values.append(totals[name].get(epoch))
    # A mean over some of the seeds that reached would hide the others: all have the cost, or it is not known.
    spreads = {name: None if None in values else Spread.of(values) for name, values in spent.items()}
    return Reach(threshold, reached, len(runs), **spreads)


def speed_up(baseline: Spread | None, arm: Spread | None) -> float | None:
    """How many times cheaper ``arm`` is: the ratio of the means, above 1 where it is cheaper."""
    if baseline is None or arm is None or arm.mean <= 0:
        return None
    return baseline.mean / arm.mean


def common_epochs(all_series: Iterable[Series]) -> list[int]:
    """The epochs at which every series has a value."""
    sets = [set(values) for values in all_series]
    return sorted(set.intersection(*sets)) if sets else []


def curve(values: Sequence[Series], x: Sequence[Series] | None = None) -> Curve | None:
    """The mean curve of several runs, over the epochs (or another cost ``x``, averaged too) that all of them have."""
    kept = [index for index, one in enumerate(values) if one and (x is None or x[index])]
    if not kept:
        return None
    chosen = [values[index] for index in kept]
    positions = [x[index] for index in kept] if x is not None else []
    epochs = common_epochs([*chosen, *positions])
    if not epochs:
        return None
    spreads = [[one[epoch] for one in chosen] for epoch in epochs]
    return Curve(
        epochs=tuple(epochs),
        x=tuple(statistics.fmean(one[epoch] for one in positions) if positions else float(epoch) for epoch in epochs),
        mean=tuple(statistics.fmean(group) for group in spreads),
        sd=tuple(statistics.stdev(group) if len(group) > 1 else None for group in spreads),
        n=len(chosen),
    )


def default_epochs(runs: Sequence[Epochs], key: str) -> list[int]:
    """The quarters of the shortest run, each moved to the nearest epoch at which every run has a value for ``key``.

    The end of the shortest run is left out where all runs end there: a report has their last epoch in any case.
    """
    every = [values for values in (series(epochs, key) for epochs in runs) if values]
    available = common_epochs(every)
    if not available:
        return []
    shortest = min(max(values) for values in every)
    nearest = {
        min(available, key=lambda epoch: (abs(epoch - shortest * quarter / 4), epoch)) for quarter in (1, 2, 3, 4)
    }
    return sorted(nearest - {shortest} if all(max(values) == shortest for values in every) else nearest)


def guessing_limit(num_classes: int) -> float | None:
    """The accuracy below which a network may as well be guessing: twice chance; half of the way up from it for two.

    ``None`` for a single class, where there is nothing to guess.
    """
    if num_classes < 2:
        return None
    return min(2 / num_classes, (1 + 1 / num_classes) / 2)


def default_thresholds(baseline: Sequence[Epochs], key: str, count: int = 5, at_least: float = 0.0) -> list[float]:
    """Round accuracies up to the lowest best one of the baseline runs, so that all of them reach every one.

    The step is the largest round one for which the thresholds stay in the upper half of the way, and fine enough
    near 1: 20, 25, ..., 40 % for a baseline at 43.7 %, and 95, 96, ..., 99 % for one at 99.7 %. None is below
    ``at_least``.
    """
    best = [max(values.values()) for values in (series(epochs, key) for epochs in baseline) if values]
    if not best or min(best) <= 0:
        return []
    lowest = min(best)
    finest = 0.01 if lowest > 0.08 else 0.001
    steps = [step for step in (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001) if step >= finest]
    fitting = [step for step in steps if (count - 1) * step <= lowest / 2 and step <= (1 - lowest) / 2]
    for step in fitting or steps[-1:]:
        top = math.floor((lowest + _TOLERANCE) / step)
        levels = [round(step * k, 6) for k in range(max(top - count + 1, 1), top + 1)]
        kept = [level for level in levels if level >= at_least - _TOLERANCE]
        if kept:
            return kept
    return []
