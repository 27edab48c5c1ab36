"""How arms stand up to drift, out of the ``drifts.json`` of their runs: over the drifts that most were put under."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from composer_kd.report.load import plain_text
from composer_kd.report.measured import MeasuredDrifts, read_drifts, same_samples
from composer_kd.report.render.charts import heat_map
from composer_kd.report.render.figures import Figure
from composer_kd.report.render.text import MISSING, PERCENT, Table, Unit, and_join, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread, effective_robustness, mean_corruption_error, relative_mean_corruption_error
from composer_kd.report.summary import Summary

__all__ = ['ArmUnderDrift', 'DriftReport', 'DriftResults']

_RATIO = Unit('', digits=3)
_MAPS = 8  # arms with a heat map of their own


@dataclass(frozen=True)
class ArmUnderDrift:
    """Means over the measured runs of an arm; accuracies are of the test data."""

    clean: Spread  # on the data that the runs are tested on
    drifted: Spread  # averaged over the drifts
    drop: Spread  # the former minus the latter
    # Relative to the baseline arm; ``None`` where no corruption was measured, or not of that arm
    corruption_error: Spread | None
    relative_corruption_error: Spread | None  # likewise, of what corruptions add to the clean error
    # What is beyond the accuracy under drift that the clean one lets one expect by the other arms
    effective: float | None
    worst: str  # the drift under which the arm is worst
    at_worst: Spread  # its accuracy there
    worst_group: Spread  # of the worst superclass, class or fine class under each drift, averaged over the drifts
    calibration_error: Spread | None  # averaged over the drifts
    by_drift: dict[str, Spread]  # accuracies by the names of the drifts


@dataclass(frozen=True)
class DriftResults:
    """Arms by name, those that were measured; and of the corruptions among the drifts, which and how severe."""

    # The names of the drifts that are compared: those that most of the measured runs were put under
    drifts: tuple[str, ...]
    corruptions: dict[str, dict[float, str]]  # kind of corruption to severity to the name of the drift
    groups: str  # what a worst group is one of: ``superclass``, ``class`` or ``fine class``
    left_out: tuple[str, ...]  # the names of the runs that were measured, and lack one of these drifts
    arms: dict[str, ArmUnderDrift]  # in the order of the report


@SECTIONS.register('drift')
class DriftReport(ReportSection):
    """A table of the measured arms, and heat maps of their accuracies."""

    order = 50
    method = (
        'Each drift changes the test data alone, in the place of any drift of the run. The drop is the accuracy on the '
        'test data minus the mean over the drifts. The mean corruption error (mCE) sums the errors of a kind over its '
        "severities, divides by the baseline's and averages over kinds: less is better, and the baseline has 1. The "
        'relative mCE does so with what corruptions add to the clean error, where they add something to that of the '
        'baseline (Hendrycks and Dietterich, 2019). Effective robustness is the accuracy under drift beyond what the '
        'clean accuracy lets one expect: a line through the other arms (at least three), fitted on the logit scale '
        '(Taori et al, 2020). The worst group and the calibration error are averaged over the drifts.'
    )

    def read(self) -> DriftResults | None:
        return _compare(self.summary)

    def tables(self) -> Iterable[Table]:
        found: DriftResults | None = self.values
        if found is None:
            return
        many = f'{len(found.drifts)} drifts' if len(found.drifts) > 1 else ''.join(found.drifts)
        against = f'; mCE against {self.summary.baseline.name}' if found.corruptions else ''
        yield Table.of(
            f'Robustness to drift: test accuracy, %, over {many}{against}',
            [(arm, found.arms[arm.name]) for arm in self.summary.arms if arm.name in found.arms],
            {
                'arm': lambda arm, own: arm.marked(),
                'n': lambda arm, own: str(own.clean.n),
                'clean': lambda arm, own: with_spread(own.clean, PERCENT),
                'under drift': lambda arm, own: with_spread(own.drifted, PERCENT),
                'drop': lambda arm, own: with_spread(own.drop, PERCENT),
                'mCE': lambda arm, own: with_spread(own.corruption_error, _RATIO),
                'relative mCE': lambda arm, own: with_spread(own.relative_corruption_error, _RATIO),
                'effective robustness': lambda arm, own: (
                    MISSING if own.effective is None else f'{100 * own.effective:+.2f}'
                ),
                'worst drift': lambda arm, own: own.worst,
                'under it': lambda arm, own: with_spread(own.at_worst, PERCENT),
                f'worst {found.groups}': lambda arm, own: with_spread(own.worst_group, PERCENT),
                'calibration error, %': lambda arm, own: with_spread(own.calibration_error, PERCENT),
            },
            labels=2,
        ).filled()

    def figures(self) -> Iterable[Figure]:
        """Drifts by arms; kinds of corruption by severity of the first arms, where there are several severities."""
        found: DriftResults | None = self.values
        if found is None:
            return
        values = [spread.mean for arm in found.arms.values() for spread in (arm.clean, *arm.by_drift.values())]
        shades = (min(values), max(values))
        # A kind of several severities is one row, their mean; any other drift is one of its own.
        grids = {kind: list(names.values()) for kind, names in found.corruptions.items() if len(names) > 1}
        in_grids = {name for names in grids.values() for name in names}
        rows = {**grids, **{name: [name] for name in found.drifts if name not in in_grids}}
        cells = [[arm.clean.mean for arm in found.arms.values()]]
        for names in rows.values():
            cells.append([fmean(arm.by_drift[name].mean for name in names) for arm in found.arms.values()])
        several = ' Kinds of corruption: mean over their severities.' if grids else ''
        caption = f'Mean over the seeds, %; more colour is higher.{several}'
        heads = ['clean', *rows]
        yield heat_map('drift_arms', 'Test accuracy under drift', caption, heads, list(found.arms), cells, shades)
        severities = sorted({severity for names in found.corruptions.values() for severity in names})
        for place, (name, arm) in enumerate(list(found.arms.items())[: _MAPS if len(severities) > 1 else 0]):
            by_severity = [
                [arm.by_drift[names[severity]].mean if severity in names else None for severity in severities]
                for names in found.corruptions.values()
            ]
            title = f'{name if len(name) <= 28 else name[:27] + "…"}, by severity'
            caption = f'Test accuracy of {name} under corruptions, mean over the seeds, %; more colour is higher.'
            heads = [f'{severity:g}' for severity in severities]
            kinds = list(found.corruptions)
            yield heat_map(f'drift_severity_{place}', title, caption, kinds, heads, by_severity, shades)

    def caveats(self) -> Iterable[str]:
        if self.values and self.values.left_out:
            yield (
                'Not in the tables of drift, because measured under other drifts than most runs: '
                f'{and_join(self.values.left_out)}; `composer-kd evaluate --drifts` measures what they lack.'
            )


def _compare(summary: Summary) -> DriftResults | None:
    """Of the runs that enter means and were measured under what most of them were; ``None`` where there are none."""
    runs = [(arm.name, run, read_drifts(run)) for arm in summary.arms for run in arm.counted]
    measured = [(name, run, found) for name, run, found in runs if found is not None]
    compared = _most_common([found for *_, found in measured])
    if not compared:
        return None
    kept = [(name, found) for name, _, found in measured if found.has(compared)]
    by_arm = {arm.name: [found for name, found in kept if name == arm.name] for arm in summary.arms}
    first = kept[0][1]
    kinds = _corruptions(first, compared)
    baseline = by_arm[summary.baseline.name]
    arms = {name: _of_arm(found, baseline, list(compared), kinds) for name, found in by_arm.items() if found}
    beyond = effective_robustness(*zip(*((one.clean.mean, one.drifted.mean) for one in arms.values()), strict=True))
    left_out = tuple(summary.labels[run.path] for _, run, found in measured if not found.has(compared))
    return DriftResults(
        drifts=tuple(compared),
        corruptions=kinds,
        groups=first.groups,
        left_out=left_out,
        arms={name: replace(one, effective=by) for (name, one), by in zip(arms.items(), beyond, strict=True)},
    )


def _of_arm(
    measured: Sequence[MeasuredDrifts],
    baseline: Sequence[MeasuredDrifts],
    names: Sequence[str],
    kinds: Mapping[str, Mapping[float, str]],
) -> ArmUnderDrift:
    clean = [float(one.clean['accuracy']) for one in measured]
    drifted = [fmean(one.accuracy(name) for name in names) for one in measured]
    by_drift = {name: Spread.over(one.accuracy(name) for one in measured) for name in names}
    worst = min(by_drift, key=lambda name: by_drift[name].mean)
    absolute, relative = [], []
    # What damage adds is counted from the same samples as they are.
    corrupted = [name for of in kinds.values() for name in of.values()]
    everyone = (*measured, *baseline)
    same = all(same_samples(one.fingerprint, one.drifts[name]) for one in everyone for name in corrupted)
    if baseline:
        errors = [one.errors(kinds) for one in baseline]
        theirs = {kind: [fmean(each) for each in zip(*(one[kind] for one in errors), strict=True)] for kind in kinds}
        their_clean = fmean(1 - float(one.clean['accuracy']) for one in baseline)
        own = [(one.errors(kinds), 1 - accuracy) for one, accuracy in zip(measured, clean, strict=True)]
        absolute = [mean_corruption_error(one, theirs) for one, _ in own]
        relative = [relative_mean_corruption_error(*one, theirs, their_clean) for one in own] if same else []
    calibration = [[one.drifts[name]['calibration_error'] for name in names] for one in measured]
    groups = [fmean(float(one.drifts[name]['worst_group']['accuracy']) for name in names) for one in measured]
    return ArmUnderDrift(
        clean=Spread.over(clean),
        drifted=Spread.over(drifted),
        drop=Spread.over(before - after for before, after in zip(clean, drifted, strict=True)),
        corruption_error=Spread.of(absolute),
        relative_corruption_error=Spread.of(relative),
        effective=None,
        worst=worst,
        at_worst=by_drift[worst],
        worst_group=Spread.over(groups),
        calibration_error=Spread.of(None if None in each else fmean(each) for each in calibration),
        by_drift=by_drift,
    )


def _most_common(everyone: Sequence[MeasuredDrifts]) -> dict[str, Any]:
    """What some run was put under: of that which more than half of the runs were, the most; else what most runs were.

    The names of the drifts, and what describes each.
    """
    candidates = [{name: entry['drift'] for name, entry in one.drifts.items()} for one in everyone if one.drifts]

    def rank(drifts: dict[str, Any]) -> tuple[bool, int, int]:
        runs = sum(one.has(drifts) for one in everyone)
        most = 2 * runs > len(everyone)
        return most, len(drifts) if most else 0, runs

    return max(candidates, key=rank, default={})


def _corruptions(measured: MeasuredDrifts, names: Iterable[str]) -> dict[str, dict[float, str]]:
    """Corruptions alone; where there are none, those that come last, after the same other drifts as most of them."""
    drifts = {name: measured.drifts[name]['drift'] for name in names}
    places = {name: [one.get('name') == 'corruption' for one in drift] for name, drift in drifts.items()}
    corrupted = {name: drifts[name] for name, place in places.items() if place and place[-1] and sum(place) == 1}
    before = {name: json.dumps(drift[:-1], sort_keys=True) for name, drift in corrupted.items()}
    often = Counter(before.values())
    usual = max(often, key=lambda one: (one == '[]', often[one]), default=None)
    kinds: dict[str, dict[float, str]] = {}
    for name, drift in corrupted.items():
        if before[name] == usual:
            kinds.setdefault(plain_text(drift[-1]['kind']), {}).setdefault(float(drift[-1]['severity']), name)
    return {kind: dict(sorted(severities.items())) for kind, severities in kinds.items()}
