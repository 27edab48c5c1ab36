"""Runs to one summary: every number that a report shows, measured once, before anything is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from composer_kd.core.errors import UserError, nearest
from composer_kd.report.load import Arm, Run, group_arms, labels
from composer_kd.report.recorded import ArmLookups, Lookups
from composer_kd.report.render.text import SHARED, UNFINISHED
from composer_kd.report.stats import (
    MEASURES,
    TOLERANCE,
    Epochs,
    Measure,
    Reach,
    Spread,
    best,
    common_epochs,
    first_epoch_at,
    last,
    reach,
    series,
    speed_up,
)

__all__ = [
    'Accuracy', 'ArmSummary', 'Comparison', 'Summary', 'default_epochs', 'default_thresholds', 'guessing_limit',
    'summarize',
]  # fmt: skip


@dataclass(frozen=True)
class Accuracy:
    """One accuracy of one arm: at fixed epochs, in the last epoch, and in each run's best one, which is hindsight."""

    at: dict[int, Spread | None]
    last: Spread | None
    best: Spread | None
    best_epoch: Spread | None


@dataclass(frozen=True)
class ArmSummary(Arm):
    """What every part of a report needs to know of one arm; dictionaries go by the name of a measure."""

    accuracy: dict[str, Accuracy]
    reach: dict[str, list[Reach]]
    lookups: ArmLookups

    @property
    def n(self) -> int:
        return len(self.counted)

    def marked(self, seconds: bool = False) -> str:
        """The name, marked while no run has finished, and beside seconds where other runs used the machine.

        Args:
            seconds: Whether seconds stand beside the name.
        """
        marks = [UNFINISHED] * (not self.finished) + [SHARED] * (seconds and self.shared)
        return ' '.join([self.name, *marks])


@dataclass(frozen=True)
class Comparison:
    """One cost of reaching one accuracy, an arm against the baseline."""

    baseline: Spread
    arm: Spread
    ratio: float  # baseline over arm, above 1 where the arm is cheaper
    complete: bool  # whether every seed of both reached the accuracy
    # Whether the means differ by more than two standard errors; ``None`` with a single seed on a side
    beyond_chance: bool | None
    shared: bool  # whether it is about seconds of a machine that other runs used too


@dataclass(frozen=True)
class Summary:
    """What all sections are made from, and the headline: the runs, and how they compare with the baseline."""

    runs: tuple[Run, ...]
    arms: tuple[ArmSummary, ...]  # the baseline first
    measures: tuple[Measure, ...]
    thresholds: dict[str, list[float]]
    epochs: list[int]
    num_classes: int | None = None

    @property
    def labels(self) -> dict[Path, str]:
        """What each run is called, by its path."""
        return labels(self.runs)

    @property
    def guessing(self) -> bool:
        """Whether no run has gone beyond guessing in the primary measure, as far as the classes are known."""
        limit = guessing_limit(self.num_classes or 1)
        if limit is None:
            return False
        runs = (series(run.epochs, self.primary.key) for arm in self.arms for run in arm.counted)
        return all(first_epoch_at(values, limit) is None for values in runs)

    @property
    def primary(self) -> Measure:
        """The accuracy that the headline is about: the first that was measured (test, then validation)."""
        return self.measures[0]

    @property
    def baseline(self) -> ArmSummary:
        return self.arms[0]

    @property
    def others(self) -> tuple[ArmSummary, ...]:
        return self.arms[1:]

    def comparable(self, arm: ArmSummary) -> bool:
        """Whether the arm is tested on the test data of the baseline: no drift has made other ones of them."""
        return arm.test_shift == self.baseline.test_shift

    def compare(self, arm: ArmSummary, measure: str, index: int, cost: str) -> Comparison | None:
        """The ``cost`` of the ``index``-th threshold of ``measure``, ``arm`` against the baseline.

        ``None`` where one is not known, or where an accuracy of the one is not one of the other: on other test data.
        """
        if not self.comparable(arm):
            return None
        ours, theirs = arm.reach[measure][index], self.baseline.reach[measure][index]
        own, base = ours.cost(cost), theirs.cost(cost)
        ratio = speed_up(base, own)
        if own is None or base is None or ratio is None:
            return None
        return Comparison(
            baseline=base,
            arm=own,
            ratio=ratio,
            complete=ours.complete and theirs.complete,
            beyond_chance=_beyond_chance(base, own),
            shared=cost == 'seconds' and (arm.shared or self.baseline.shared),
        )


def summarize(
    runs: Sequence[Run],
    baseline: str | None = None,
    thresholds: Sequence[float] | None = None,
    epochs: Sequence[int] | None = None,
) -> Summary:
    """Measure all runs.

    Args:
        runs: From :func:`~composer_kd.report.load.collect`.
        baseline: The arm that the others are compared with. Default: the first one that recycles nothing.
        thresholds: Accuracies to reach, as fractions, the same for every measure. Default: round ones for each measure
            beyond guessing, up to the lowest best accuracy of a baseline run.
        epochs: Where accuracies are compared. Default: quarters of the shortest run.
    """
    _check(thresholds, epochs)
    arms = group_arms(runs)
    base = _choose_baseline(arms, baseline)
    counted = [run.epochs for arm in arms for run in arm.counted]
    measures = tuple(measure for measure in MEASURES if any(series(one, measure.key) for one in counted))
    if not measures:
        known = ', '.join(measure.key for measure in MEASURES)
        raise UserError(f'{runs[0].path}/metrics.jsonl: no accuracy was logged in any run; expected one of {known}')
    at = sorted(set(epochs)) if epochs else default_epochs(counted, measures[0].key)
    # Where runs are of different data, what is beyond guessing in all of them.
    classes = min((run.num_classes for arm in arms for run in arm.counted if run.num_classes), default=None)
    limit = guessing_limit(classes or 1) or 0.0
    levels = {
        measure.name: sorted(set(thresholds))
        if thresholds
        else default_thresholds([run.epochs for run in base.counted], measure.key, at_least=limit)
        for measure in measures
    }
    ordered = [base, *(arm for arm in arms if arm is not base)]
    lookups = Lookups(runs)
    summarized = tuple(_summarize_arm(arm, measures, levels, at, lookups.of_arm(arm)) for arm in ordered)
    return Summary(tuple(runs), summarized, measures, levels, at, classes)


def _summarize_arm(
    arm: Arm, measures: Sequence[Measure], levels: dict[str, list[float]], at: list[int], lookups: ArmLookups
) -> ArmSummary:
    records = [run.epochs for run in arm.counted]
    accuracy = {}
    for measure in measures:
        values = [one for one in (series(run, measure.key) for run in records) if one]
        peaks = [peak for peak in map(best, values) if peak]
        accuracy[measure.name] = Accuracy(
            at={epoch: Spread.of(one.get(epoch) for one in values) for epoch in at},
            last=Spread.of(map(last, values)),
            best=Spread.of(value for _, value in peaks),
            best_epoch=Spread.of(epoch for epoch, _ in peaks),
        )
    to_reach = {
        measure.name: [reach(records, measure.key, level) for level in levels[measure.name]] for measure in measures
    }
    return ArmSummary(arm.name, arm.runs, accuracy, to_reach, lookups)


def _choose_baseline(arms: Sequence[Arm], name: str | None) -> Arm:
    if name is None:
        return next((arm for arm in arms if not arm.recycles), arms[0])
    chosen = next((arm for arm in arms if arm.name == name), None)
    if chosen is None:
        raise UserError(f'baseline: {name!r} is not an arm of these runs; {nearest(name, [arm.name for arm in arms])}')
    return chosen


def _beyond_chance(first: Spread, second: Spread) -> bool | None:
    if first.sd is None or second.sd is None:
        return None
    error = math.sqrt(first.sd**2 / first.n + second.sd**2 / second.n)
    return abs(first.mean - second.mean) > 2 * error


def _check(thresholds: Sequence[float] | None, epochs: Sequence[int] | None) -> None:
    for level in thresholds or ():
        if not 0 < level <= 1:
            raise UserError(f'thresholds: {level:g} is not an accuracy; give fractions between 0 and 1, as 0.3,0.4')
    for epoch in epochs or ():
        if epoch < 1:
            raise UserError(f'epochs: {epoch} is not a finished epoch; the first one is 1')


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
        top = math.floor((lowest + TOLERANCE) / step)
        levels = [round(step * k, 6) for k in range(max(top - count + 1, 1), top + 1)]
        kept = [level for level in levels if level >= at_least - TOLERANCE]
        if kept:
            return kept
    return []
