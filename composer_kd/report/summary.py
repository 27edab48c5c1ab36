"""Runs to one summary: every number that a report shows, measured once, before anything is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from composer_kd.core.errors import UserError, nearest
from composer_kd.report.collect import Arm, Run, group_arms, labels
from composer_kd.report.ensembles import Ensemble, ensembles
from composer_kd.report.fidelity import Fidelities, Fidelity
from composer_kd.report.harvest import ArmArchive, Harvests
from composer_kd.report.inference import Inference, inference_of_arm
from composer_kd.report.measures import (
    MEASURES,
    Measure,
    Reach,
    Spread,
    best,
    costs_at,
    default_epochs,
    default_thresholds,
    first_epoch_at,
    guessing_limit,
    reach,
    series,
    speed_up,
)
from composer_kd.report.robustness import Robustness, robustness
from composer_kd.report.takeover import Takeover, takeovers
from composer_kd.report.under_attack import UnderAttack, under_attack

__all__ = ['Accuracy', 'ArmSummary', 'Comparison', 'Summary', 'summarize']


@dataclass(frozen=True)
class Accuracy:
    """One accuracy of one arm: at fixed epochs, in the last epoch, and in each run's best one, which is hindsight."""

    at: dict[int, Spread | None]
    last: Spread | None
    best: Spread | None
    best_epoch: Spread | None


@dataclass(frozen=True)
class ArmSummary:
    """What is known of one arm; dictionaries go by the name of a measure, or of a total."""

    arm: Arm
    accuracy: dict[str, Accuracy]
    reach: dict[str, list[Reach]]
    totals: dict[str, Spread | None]
    archive: ArmArchive
    fidelity: Fidelity
    inference: Inference

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def n(self) -> int:
        return len(self.arm.counted)


@dataclass(frozen=True)
class Comparison:
    """One cost of reaching one accuracy, an arm against the baseline.

    Args:
        ratio: Baseline over arm, above 1 where the arm is cheaper.
        complete: Whether every seed of both reached the accuracy.
        beyond_chance: Whether the means differ by more than two standard errors; ``None`` with a single seed on a side.
        shared: Whether it is about seconds of a machine that other runs used too.
    """

    baseline: Spread
    arm: Spread
    ratio: float
    complete: bool
    beyond_chance: bool | None
    shared: bool


@dataclass(frozen=True)
class Summary:
    """Everything that the text, the tables, the figures and the page are made from."""

    runs: tuple[Run, ...]
    arms: tuple[ArmSummary, ...]  # the baseline first
    measures: tuple[Measure, ...]
    thresholds: dict[str, list[float]]
    epochs: list[int]
    num_classes: int | None = None
    ensembles: tuple[Ensemble, ...] = ()
    robustness: Robustness | None = None
    under_attack: UnderAttack | None = None
    takeovers: dict[str, Takeover] = field(default_factory=dict)

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
        runs = (series(run.epochs, self.primary.key) for arm in self.arms for run in arm.arm.counted)
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
        """Whether the arm is judged on the test data of the baseline: no drift has made other ones of them."""
        return arm.arm.judged_under == self.baseline.arm.judged_under

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
            shared=cost == 'seconds' and (arm.arm.shared or self.baseline.arm.shared),
        )


def summarize(
    runs: Sequence[Run],
    baseline: str | None = None,
    thresholds: Sequence[float] | None = None,
    epochs: Sequence[int] | None = None,
) -> Summary:
    """Measure all runs.

    Args:
        runs: From :func:`~composer_kd.report.collect.collect`.
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
    harvests, fidelities = Harvests(runs), Fidelities(runs)
    summarized = tuple(
        _summarize_arm(arm, measures, levels, at, harvests.of_arm(arm), fidelities.of_arm(arm)) for arm in ordered
    )
    return Summary(
        tuple(runs), summarized, measures, levels, at, classes, ensembles(runs), robustness(ordered),
        under_attack(ordered),
        takeovers(ordered),
    )  # fmt: skip


def _summarize_arm(
    arm: Arm,
    measures: Sequence[Measure],
    levels: dict[str, list[float]],
    at: list[int],
    archive: ArmArchive,
    fidelity: Fidelity,
) -> ArmSummary:
    records = [run.epochs for run in arm.counted]
    accuracy = {}
    for measure in measures:
        values = [one for one in (series(run, measure.key) for run in records) if one]
        peaks = [peak for peak in map(best, values) if peak]
        accuracy[measure.name] = Accuracy(
            at={epoch: Spread.of(one.get(epoch) for one in values) for epoch in at},
            last=Spread.of(one[max(one)] for one in values),
            best=Spread.of(value for _, value in peaks),
            best_epoch=Spread.of(epoch for epoch, _ in peaks),
        )
    to_reach = {
        measure.name: [reach(records, measure.key, level) for level in levels[measure.name]] for measure in measures
    }
    return ArmSummary(arm, accuracy, to_reach, _totals(records), archive, fidelity, inference_of_arm(arm))


_TOTALS = (
    'epochs', 'seconds', 'seconds_teacher', 'seconds_attack', 'seconds_eval', 'multiply_adds', 'multiply_adds_teacher',
    'multiply_adds_attack',
)  # fmt: skip


def _totals(records: Sequence[Sequence]) -> dict[str, Spread | None]:
    """What the whole of a run cost, and how it stood to its teachers in the end: means over the runs."""
    spent = [costs_at(run) for run in records]
    totals = {name: Spread.of(one[name][max(one[name])] if one[name] else None for one in spent) for name in _TOTALS}
    for key in ('agreement', 'teacher_accuracy', 'images_per_second'):
        ends = [series(run, key) for run in records]
        totals[key] = Spread.of(one[max(one)] if one else None for one in ends)
    return totals


def _choose_baseline(arms: Sequence[Arm], name: str | None) -> Arm:
    if name is None:
        plain = (arm for arm in arms if not (arm.distilled or arm.curriculum or arm.warm or arm.adversarial))
        return next(plain, arms[0])
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
