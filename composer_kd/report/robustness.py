"""How arms stand up to drift, out of the ``drifts.json`` of their runs: over the drifts that most were put under."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import xxhash

from composer_kd.core.errors import UserError
from composer_kd.report.collect import Arm, Run, plain_text
from composer_kd.report.drift_measures import (
    effective_robustness,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from composer_kd.report.measures import Spread

__all__ = ['ArmRobustness', 'Measured', 'Robustness', 'measured_of', 'robustness', 'same_samples']

_FILE = 'drifts.json'


def same_samples(fingerprint: str, entry: Mapping[str, Any]) -> bool:
    """Whether a drift is of data of this fingerprint, but for the last thing that it does to them.

    Args:
        fingerprint: Of the data that the model is judged on: of what is stored, and of the run's own drifts behind it.
        entry: One of ``drifts`` in the file.
    """
    stored, _, behind = str(entry.get('fingerprint', '')).rpartition('-')
    before = entry['drift'][:-1]
    own = f'{stored}-{_behind(before)}' if before else stored
    return behind == _behind(entry['drift']) and fingerprint == own


def _behind(described: Sequence[Mapping[str, Any]]) -> str:
    """What stands behind a fingerprint: ``drifts_hash`` of the archive, which a report does not import."""
    return xxhash.xxh3_64_hexdigest(json.dumps(list(described), sort_keys=True))


@dataclass(frozen=True)
class ArmRobustness:
    """Means over the measured runs of an arm; accuracies are of the test data.

    Attributes:
        clean: On the data that the runs are judged on.
        drifted: Averaged over the drifts.
        drop: The former minus the latter.
        corruption_error: Relative to the baseline arm; ``None`` where no corruption was measured, or not of that arm.
        relative_corruption_error: Likewise, of what corruptions add to the clean error.
        effective: What is beyond the accuracy under drift that the clean one lets one expect by the other arms.
        worst: The drift under which the arm is worst.
        at_worst: Its accuracy there.
        worst_group: Of the worst superclass, class or fine class under each drift, averaged over the drifts.
        calibration_error: Averaged over the drifts.
        by_drift: Accuracies by the names of the drifts.
    """

    clean: Spread
    drifted: Spread
    drop: Spread
    corruption_error: Spread | None
    relative_corruption_error: Spread | None
    effective: float | None
    worst: str
    at_worst: Spread
    worst_group: Spread
    calibration_error: Spread | None
    by_drift: dict[str, Spread]


@dataclass(frozen=True)
class Robustness:
    """Arms by name, those that were measured; and of the corruptions among the drifts, which and how severe.

    Attributes:
        arms: In the order of the report.
        kinds: Kind of corruption to severity to the name of the drift.
        drifts: The names of the drifts that are compared: those that most of the measured runs were put under.
        groups: What a worst group is one of: ``superclass``, ``class`` or ``fine class``.
        left_out: Runs that were measured, and lack one of these.
    """

    arms: dict[str, ArmRobustness]
    kinds: dict[str, dict[float, str]]
    drifts: tuple[str, ...]
    groups: str
    left_out: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Measured:
    """The content of one run's file; ``fingerprint`` is that of the test data that the run is judged on."""

    fingerprint: str
    clean: Mapping[str, Any]
    drifts: Mapping[str, Mapping[str, Any]]
    groups: str

    def on(self, fingerprint: str) -> float | None:
        """The accuracy on these test data; ``None`` where it was not measured."""
        if fingerprint == self.fingerprint:
            return float(self.clean['accuracy'])
        found = (one for one in self.drifts.values() if one.get('fingerprint') == fingerprint)
        return next((float(one['accuracy']) for one in found), None)

    def clean_is_of(self, name: str) -> bool:
        """Whether the samples under a drift are those of ``clean``, but for the last thing that is done to them."""
        return same_samples(self.fingerprint, self.drifts[name])

    def has(self, drifts: Mapping[str, Any]) -> bool:
        """Whether it was measured under all of these, told by their names and by all that describes them."""
        return all(name in self.drifts and self.drifts[name]['drift'] == drift for name, drift in drifts.items())

    def accuracy(self, name: str) -> float:
        return float(self.drifts[name]['accuracy'])

    def mean(self, names: Sequence[str], value: Callable[[Mapping[str, Any]], float | None]) -> float | None:
        values = [value(self.drifts[name]) for name in names]
        known = [one for one in values if one is not None]
        return fmean(known) if len(known) == len(values) else None

    def errors(self, kinds: Mapping[str, Mapping[float, str]]) -> dict[str, list[float]]:
        return {kind: [1 - self.accuracy(name) for name in names.values()] for kind, names in kinds.items()}


def robustness(arms: Sequence[Arm]) -> Robustness | None:
    """Of the runs that enter means and were measured under what most of them were; ``None`` where there are none.

    Args:
        arms: The baseline first.
    """
    runs = [(arm.name, run, found) for arm in arms for run in arm.counted if (found := measured_of(run)) is not None]
    compared = _compared([found for *_, found in runs])
    if not compared:
        return None
    names = tuple(compared)
    kept = [(name, found) for name, _, found in runs if found.has(compared)]
    left_out = tuple(run for _, run, found in runs if not found.has(compared))
    everyone = [found for _, found in kept]
    by_arm = {arm.name: [found for name, found in kept if name == arm.name] for arm in arms}
    kinds = _kinds(everyone[0], names)
    baseline = by_arm[arms[0].name]
    found = {name: _arm(measured, baseline, names, kinds) for name, measured in by_arm.items() if measured}
    effective = effective_robustness(
        [one.clean.mean for one in found.values()], [one.drifted.mean for one in found.values()]
    )
    found = {name: replace(one, effective=beyond) for (name, one), beyond in zip(found.items(), effective, strict=True)}
    return Robustness(found, kinds, names, everyone[0].groups, left_out)


def _arm(
    measured: Sequence[Measured],
    baseline: Sequence[Measured],
    names: Sequence[str],
    kinds: Mapping[str, Mapping[float, str]],
) -> ArmRobustness:
    clean = [float(one.clean['accuracy']) for one in measured]
    drifted = [fmean(one.accuracy(name) for name in names) for one in measured]
    by_drift = {name: _spread(one.accuracy(name) for one in measured) for name in names}
    worst = min(by_drift, key=lambda name: by_drift[name].mean)
    absolute: list[float | None] = []
    relative: list[float | None] = []
    # What damage adds is counted from the same samples as they are.
    corrupted = [name for of in kinds.values() for name in of.values()]
    same = all(one.clean_is_of(name) for one in (*measured, *baseline) for name in corrupted)
    if baseline:
        errors = [one.errors(kinds) for one in baseline]
        theirs = {kind: [fmean(each) for each in zip(*(one[kind] for one in errors), strict=True)] for kind in kinds}
        their_clean = fmean(1 - float(one.clean['accuracy']) for one in baseline)
        for one, accuracy in zip(measured, clean, strict=True):
            own = one.errors(kinds)
            absolute.append(mean_corruption_error(own, theirs))
            added = relative_mean_corruption_error(own, 1 - accuracy, theirs, their_clean) if same else None
            relative.append(added)
    return ArmRobustness(
        clean=_spread(clean),
        drifted=_spread(drifted),
        drop=_spread(before - after for before, after in zip(clean, drifted, strict=True)),
        corruption_error=Spread.of(absolute),
        relative_corruption_error=Spread.of(relative),
        effective=None,
        worst=worst,
        at_worst=by_drift[worst],
        worst_group=_spread(one.mean(names, lambda each: float(each['worst_group']['accuracy'])) for one in measured),
        calibration_error=Spread.of(one.mean(names, lambda each: each['calibration_error']) for one in measured),
        by_drift=by_drift,
    )


def _compared(everyone: Sequence[Measured]) -> dict[str, Any]:
    """What some run was put under: of that which more than half of the runs were, the most; else what most runs were.

    The names of the drifts, and what describes each.
    """
    candidates = [{name: entry['drift'] for name, entry in one.drifts.items()} for one in everyone if one.drifts]

    def rank(drifts: dict[str, Any]) -> tuple[bool, int, int]:
        runs = sum(one.has(drifts) for one in everyone)
        most = 2 * runs > len(everyone)
        return most, len(drifts) if most else 0, runs

    return max(candidates, key=rank, default={})


def _kinds(measured: Measured, names: Sequence[str]) -> dict[str, dict[float, str]]:
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


def measured_of(run: Run) -> Measured | None:
    """What was measured of the weights that the run has now."""
    file = run.path / _FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding='utf-8'))
        weights = run.manifest.get('weights')
        if not isinstance(weights, Mapping) or values['weights'] != weights.get('hash'):
            return None
        drifts = {plain_text(name): entry for name, entry in values['drifts'].items()}
        for one in (values['clean'], *drifts.values()):
            if not all(math.isfinite(x) for x in (one['accuracy'], one['worst_group']['accuracy'])):
                raise ValueError
            _ = one['calibration_error']
        for entry in drifts.values():
            _ = [dict(one) for one in entry['drift']]
        return Measured(str(values['fingerprint']), values['clean'], drifts, plain_text(values['groups']))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f'{file}: not what a measurement writes there; remove it, and measure again with '
            f'`composer-kd evaluate --drifts`'
        ) from None


def _spread(values: Any) -> Spread:
    found = Spread.of(values)
    assert found is not None
    return found
