"""The statistics of a report, as pure functions: accuracies by epoch, what reaching one took, errors under drift."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression, stdev
from typing import Any

from composer_kd.report.load import number

__all__ = [
    'COSTS', 'MEASURES', 'PARTS', 'TOLERANCE', 'Curve', 'Epochs', 'Measure', 'Reach', 'Series', 'Spread',
    'best', 'common_epochs', 'costs_at', 'cumulative', 'curve', 'effective_robustness', 'first_costs',
    'first_epoch_at', 'label_loss', 'last', 'mean_corruption_error', 'reach', 'relative_mean_corruption_error',
    'series', 'speed_up',
]  # fmt: skip

Epochs = Sequence[Mapping[str, Any]]
Series = dict[int, float]
Errors = Mapping[str, Sequence[float]]

# Accuracies come out of float32 counters (0.01 as 0.00999999978) and must reach the threshold they are equal to;
# a single sample more or less in a million still counts.
TOLERANCE = 5e-7


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


# What reaching an accuracy takes, and how it is called.
COSTS = {'epochs': 'epochs', 'seconds': 'training time', 'multiply_adds': 'multiply-adds'}
PARTS = ('teacher', 'attack', 'other')  # of a training's cost: what teachers, attacks and other algorithms took


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
        return cls(fmean(present), stdev(present) if len(present) > 1 else None, len(present))

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread:
        """Over values of which there is at least one."""
        spread = cls.of(values)
        assert spread is not None
        return spread


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
    return {record['epoch']: value for record in epochs if (value := number(record.get(key))) is not None}


def last(values: Series) -> float | None:
    """The value of the last epoch that has one."""
    return values[max(values)] if values else None


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
    """What a run had spent by the end of each epoch: for every cost, and for each of the :data:`PARTS` of it.

    Seconds are those of training with all parts, without evaluation; multiply-adds are of the student and all parts.
    """
    spent = {
        'epochs': {record['epoch']: float(record['epoch']) for record in epochs},
        'seconds': cumulative(epochs, 'seconds_train_total', 'seconds_train'),
        'seconds_eval': cumulative(epochs, 'seconds_eval_total', 'seconds_eval'),
    }
    for part in PARTS:
        spent[f'seconds_{part}'] = cumulative(epochs, f'seconds_{part}_total', f'seconds_{part}')
        spent[f'multiply_adds_{part}'] = cumulative(epochs, f'multiply_adds_{part}_total')
    parts = [spent[f'multiply_adds_{part}'] for part in PARTS]
    teacher = spent['multiply_adds_teacher']
    spent['multiply_adds'] = {
        epoch: amount + sum(part.get(epoch, 0.0) for part in parts)
        for epoch, amount in cumulative(epochs, 'multiply_adds_student_total').items()
        if not teacher or epoch in teacher
    }
    return spent


def first_epoch_at(values: Series, threshold: float) -> int | None:
    """The first epoch at or above ``threshold``, or ``None``. Nothing is interpolated."""
    return min((epoch for epoch, value in values.items() if value >= threshold - TOLERANCE), default=None)


def best(values: Series) -> tuple[int, float] | None:
    """Epoch and value of the maximum, the earliest one."""
    return max(values.items(), key=lambda item: (item[1], -item[0]), default=None)


def first_costs(epochs: Epochs, key: str, threshold: float) -> dict[str, float | None] | None:
    """What a run had spent of each of :data:`COSTS` when it first reached ``threshold`` in ``key``, if it ever did."""
    epoch = first_epoch_at(series(epochs, key), threshold)
    if epoch is None:
        return None
    spent = costs_at(epochs)
    return {cost: spent[cost].get(epoch) for cost in COSTS}


def reach(runs: Sequence[Epochs], key: str, threshold: float) -> Reach:
    """What reaching ``threshold`` in ``key`` took the runs of an arm."""
    reached = [spent for epochs in runs if (spent := first_costs(epochs, key, threshold)) is not None]
    # A mean over some of the seeds that reached would hide the others: all have the cost, or it is not known.
    costs = {cost: [spent[cost] for spent in reached] for cost in COSTS}
    spreads = {name: None if None in values else Spread.of(values) for name, values in costs.items()}
    return Reach(threshold, len(reached), len(runs), **spreads)


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
        x=tuple(fmean(one[epoch] for one in positions) if positions else float(epoch) for epoch in epochs),
        mean=tuple(fmean(group) for group in spreads),
        sd=tuple(stdev(group) if len(group) > 1 else None for group in spreads),
        n=len(chosen),
    )


def mean_corruption_error(errors: Errors, baseline: Errors) -> float | None:
    """mCE: a kind's errors summed over its severities, over the baseline's; averaged over kinds.

    1 is the baseline itself, less is better (Hendrycks and Dietterich, 2019, https://arxiv.org/abs/1903.12261, who use
    AlexNet). ``None`` without a kind in which the baseline errs.

    Args:
        errors: Kinds of corruption to errors, as fractions, at the same severities in the same order in both.
        baseline: Those of the model that is compared with.
    """
    return _mean_ratio({kind: (sum(errors[kind]), sum(baseline[kind])) for kind in errors})


def relative_mean_corruption_error(
    errors: Errors, clean: float, baseline: Errors, baseline_clean: float
) -> float | None:
    """The same of what a corruption adds to the clean error: how much worse it gets, whatever it was before.

    A kind that adds nothing to the baseline's errors has no ratio and is left out.
    """
    added = {
        kind: (sum(one - clean for one in errors[kind]), sum(one - baseline_clean for one in baseline[kind]))
        for kind in errors
    }
    return _mean_ratio(added)


def _mean_ratio(sums: Mapping[str, tuple[float, float]]) -> float | None:
    ratios = [own / base for own, base in sums.values() if base > 0]
    return fmean(ratios) if ratios else None


def effective_robustness(clean: Sequence[float], drifted: Sequence[float]) -> list[float | None]:
    """Accuracy under drift beyond what the clean accuracy lets one expect (Taori et al, 2020).

    Expected is what a line through the other models says, fitted on the logit scale by least squares: a model that is
    in the fit itself pulls the line towards it, and with few models most of the way. ``None`` for each model with fewer
    than three others and with others of one clean accuracy. One that is at 0 or 1 has no place on the scale: it has
    none, and is no other of the rest.

    Args:
        clean: Of each model, as fractions.
        drifted: Likewise, under drift.
    """
    points = {
        model: (_logit(before), _logit(after))
        for model, (before, after) in enumerate(zip(clean, drifted, strict=True))
        if 0 < before < 1 and 0 < after < 1
    }
    found: list[float | None] = [None] * len(clean)
    for model, (at, _) in points.items():
        others = [point for other, point in points.items() if other != model]
        expected = _on_the_line([x for x, _ in others], [y for _, y in others], at)
        found[model] = None if expected is None else drifted[model] - 1 / (1 + math.exp(-expected))
    return found


def _on_the_line(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """What a line through three points or more says; ``None`` where there are fewer, or where they stand upright."""
    if len(x) < 3 or max(x) - min(x) < 1e-6:
        return None
    slope, intercept = linear_regression(x, y)
    return intercept + slope * at


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
