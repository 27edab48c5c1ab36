"""From the lines of a scale to figures: what an arm reached, what it cost, and what it took to match others.

Costs are multiply-adds and seconds. A run's cost is its training, its live teachers' passes, and the harvest of the
logits that it looked up; the harvest serves several students, so it is given whole and in parts. Seconds are the
counted work at the rates of runs that had the machine for themselves: runs of a study train side by side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.paired import Paired
from benchmarks.retrain.cells import Scale

__all__ = ['Costs', 'Entry', 'Line', 'Rates', 'Study', 'first_epoch_at', 'took']

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Costs:
    """What a run took, in one unit.

    Args:
        student: Its own training.
        teachers: Its live teachers' passes, and looking up.
        harvest: Recording what it looked up, all of it.
        sunk: Training its teachers, which a sequence of runs has done anyway.
    """

    student: float
    teachers: float
    harvest: float = 0.0
    sunk: float = 0.0

    def total(self, students: int = 1) -> float:
        """With the harvest divided among so many students."""
        return self.student + self.teachers + self.harvest / students


@dataclass(frozen=True)
class Rates:
    """Seconds for a multiply-add of a training student, of a teacher, and for an output that is looked up."""

    student: float
    teacher: float
    lookup: float

    @classmethod
    def of(cls, alone: Mapping[str, Line]) -> Rates | None:
        """From runs that had the machine for themselves; ``None`` where there are not enough of them."""
        by_arm = {line['arm']: line['epochs'][-1] for line in alone.values()}
        if not {'baseline', 'kd', 'kd_recorded'} <= by_arm.keys():
            return None
        plain, live, recorded = by_arm['baseline'], by_arm['kd'], by_arm['kd_recorded']
        images = recorded['images_recorded_total']
        return cls(
            plain['seconds_train_total'] / plain['multiply_adds_student_total'],
            live['seconds_teacher_total'] / live['multiply_adds_teacher_total'],
            recorded['seconds_teacher_total'] / images if images else 0.0,
        )


@dataclass
class Entry:
    """The runs of an arm on a budget, by their number."""

    scenario: str
    arm: str
    budget: int
    lines: dict[int, Line] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        return [number for number, line in sorted(self.lines.items()) if line['epochs']]

    def last(self, key: str) -> dict[int, float]:
        """Of the last epoch, by number; accuracies in percent."""
        return {number: _percent(key, self.lines[number]['epochs'][-1][key]) for number in self.numbers}

    def best(self, key: str) -> dict[int, float]:
        """Of the best epoch, chosen with hindsight."""
        return {
            number: _percent(key, max(epoch[key] for epoch in self.lines[number]['epochs'] if key in epoch))
            for number in self.numbers
        }

    def evaluation(self, *keys: str) -> dict[int, float]:
        """Something that was found out about the last evaluation; an average where there are several teachers."""
        found = {}
        for number in self.numbers:
            value: Any = self.lines[number].get('evaluation') or {}
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, Mapping) and value:
                value = statistics.fmean(value.values())
            if isinstance(value, int | float):
                found[number] = float(value)
        return found


class Study:
    """All finished cells of a scale that are compared: those of its phases, with the values that won their grids."""

    def __init__(self, scale: Scale, lines: Mapping[str, Line], alone: Mapping[str, Line] | None = None):
        self.scale, self.lines = scale, lines
        self.rates = Rates.of(alone or {})
        self.entries: dict[tuple[str, str, int], Entry] = {}
        for phase in scale.phases():
            for arm in scale.arms_of(phase):
                for budget in scale.budgets_of(phase):
                    self._enter(phase['scenario'], arm, budget, scale.numbers_of(phase))

    def _enter(self, scenario: str, arm: str, budget: int, numbers: range) -> None:
        entry = self.entries.setdefault((scenario, arm, budget), Entry(scenario, arm, budget))
        for number in numbers:
            cell = self.scale.cell(scenario, arm, budget, number)
            if cell is not None and cell.name in self.lines:
                entry.lines[number] = self.lines[cell.name]

    def entry(self, scenario: str, arm: str, budget: int) -> Entry | None:
        """The arm in this scenario, or in the one that it is like, where the run is the same."""
        like = self.scale.scenarios[scenario].get('like', scenario)
        for place in dict.fromkeys((scenario, like)):
            entry = self.entries.get((place, arm, budget))
            if entry is not None and entry.numbers:
                cell = self.scale.cell(scenario, arm, budget, entry.numbers[0])
                if cell is not None and cell.name in self.lines:
                    return entry
        return None

    def arms(self, scenario: str) -> list[str]:
        """Those with a finished run, in the order of arms.yaml."""
        there = {arm for place, arm, _ in self.entries if place == scenario}
        there |= {'baseline', 'scratch'}
        return [arm for arm in self.scale.arms if arm in there and any(self.budgets(scenario, arm))]

    def budgets(self, scenario: str, arm: str) -> list[int]:
        every = sorted({budget for _, _, budget in self.entries} | {self.scale.full})
        return [budget for budget in every if self.entry(scenario, arm, budget) is not None]

    # -- comparisons ----------------------------------------------------------------------------------------------

    def baseline(self, scenario: str, key: str = 'test_accuracy') -> dict[int, float]:
        """What the baseline reached in its full length, by number."""
        entry = self.entry(scenario, 'baseline', self.scale.full)
        return entry.last(key) if entry else {}

    def gain(self, entry: Entry, over: str = 'scratch', key: str = 'test_accuracy') -> Paired | None:
        """Over another arm on the same budget, pair by pair of equal numbers."""
        other = self.entry(entry.scenario, over, entry.budget)
        if other is None:
            return None
        ours, theirs = entry.last(key), other.last(key)
        differences = [ours[number] - theirs[number] for number in ours if number in theirs]
        return Paired.of(differences) if differences else None

    def match(self, scenario: str, arm: str, target: float) -> Entry | None:
        """The arm on the smallest budget whose mean is at least ``target``."""
        for budget in self.budgets(scenario, arm):
            entry = self.entry(scenario, arm, budget)
            if entry is not None and statistics.fmean(entry.last('test_accuracy').values()) >= target:
                return entry
        return None

    # -- costs ----------------------------------------------------------------------------------------------------

    def costs(self, line: Line, seconds: bool = False) -> Costs | None:
        """Of one run, in multiply-adds, or in seconds where the rates are known."""
        if seconds and self.rates is None:
            return None
        return self._costs(line, self._seconds if seconds else _multiply_adds)

    def _costs(self, line: Line, count: Callable[[float, float, float], Costs]) -> Costs:
        last = line['epochs'][-1]
        looked_up = last.get('images_recorded_total', 0)
        own = count(last['multiply_adds_student_total'], last['multiply_adds_teacher_total'], looked_up)
        harvest = sunk = 0.0
        for name in line['needs']:
            need = self.lines.get(name)
            if need is None:
                continue
            if looked_up:
                harvest += count(0.0, need['harvest'].get('multiply_adds', 0.0), 0).teachers
            whole = self._costs(need, count)
            sunk += whole.total()
        return Costs(own.student, own.teachers, harvest, sunk)

    def _seconds(self, student: float, teacher: float, looked_up: float) -> Costs:
        rates = self.rates
        assert rates is not None
        return Costs(rates.student * student, rates.teacher * teacher + rates.lookup * looked_up)

    def mean_costs(self, entry: Entry, seconds: bool = False) -> Costs | None:
        found = [self.costs(entry.lines[number], seconds) for number in entry.numbers]
        known = [one for one in found if one is not None]
        if not known:
            return None
        parts = ('student', 'teachers', 'harvest', 'sunk')
        return Costs(*(statistics.fmean(getattr(one, part) for one in known) for part in parts))

    def cheapest(
        self, scenario: str, arm: str, threshold: float, key: str = 'test_accuracy'
    ) -> tuple[float, float, int] | None:
        """Epochs and multiply-adds (teachers and harvest inside) to an accuracy, on the budget where they are fewest.

        All seeds must reach it; a run counts up to its first epoch that does.
        """
        found = []
        for budget in self.budgets(scenario, arm):
            entry = self.entry(scenario, arm, budget)
            assert entry is not None
            reached = [first_epoch_at(entry.lines[number]['epochs'], threshold, key) for number in entry.numbers]
            if not all(reached):
                continue
            epochs, work = [], []
            for number, epoch in zip(entry.numbers, reached, strict=True):
                assert epoch is not None
                epochs.append(epoch['epoch'])
                harvest = self._costs(entry.lines[number], _multiply_adds).harvest
                work.append(epoch['multiply_adds_student_total'] + epoch['multiply_adds_teacher_total'] + harvest)
            found.append((statistics.fmean(epochs), statistics.fmean(work), budget))
        return min(found, key=lambda one: one[1], default=None)


def first_epoch_at(epochs: Iterable[Line], threshold: float, key: str) -> Line | None:
    """The first epoch at or above an accuracy; nothing is interpolated."""
    # Accuracies come out of float32 counters: equal ones must count.
    return next((epoch for epoch in epochs if epoch.get(key, -math.inf) >= threshold - 5e-7), None)


def took(line: Line) -> float:
    """Seconds of a run in the study, evaluation inside; none for one that failed."""
    return sum(last['seconds_train_total'] + last.get('seconds_eval_total', 0.0) for last in line['epochs'][-1:])


def _multiply_adds(student: float, teacher: float, looked_up: float) -> Costs:
    return Costs(student, teacher)


def _percent(key: str, value: float) -> float:
    return 100 * value if 'accuracy' in key or key == 'agreement' else value
