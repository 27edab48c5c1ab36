"""From the lines of a scale to figures: what an arm reached, what it cost, and what it took to match others.

Costs are multiply-adds and seconds. A run's cost is its training, its live teachers' passes, and the harvest of the
logits that it looked up; the harvest serves several students, so it is given whole and in parts. Seconds are the
counted work at the rates of runs that had the machine for themselves: runs of a study train side by side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.paired import Paired, spread
from benchmarks.retrain.cells import Cell, Scale
from composer_kd.core.errors import UserError

__all__ = ['Costs', 'Entry', 'Line', 'Rates', 'Reached', 'Study', 'first_epoch_at', 'refuse_another', 'took']

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

    measured: str = ''
    """How they were found out."""

    @classmethod
    def of(cls, alone: Mapping[str, Line]) -> Rates | None:
        """Medians over runs that had the machine for themselves; ``None`` where there are not enough of them."""
        plain, live, recorded = [], [], []
        for line in alone.values():
            last = line['epochs'][-1]
            images, teachers = last.get('images_recorded_total', 0), last.get('multiply_adds_teacher_total', 0.0)
            if images:
                recorded.append(last['seconds_teacher_total'] / images)
            elif teachers:
                live.append(last['seconds_teacher_total'] / teachers)
            else:
                plain.append(last['seconds_train_total'] / last['multiply_adds_student_total'])
        if not (plain and live and recorded):
            return None
        return cls(*map(statistics.median, (plain, live, recorded)), _how_measured(alone.values(), plain))


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
        every = self.tested_every(scenario)
        for number in numbers:
            cell = self.scale.cell(scenario, arm, budget, number)
            if cell is not None and cell.name in self.lines:
                refuse_another(cell, self.lines[cell.name])
                entry.lines[number] = _tested_at(self.lines[cell.name], every)

    def tested_every(self, scenario: str) -> int:
        """Epochs between two tests that all arms of a scenario have; what some have between them is not compared."""
        run = {**self.scale.yaml['run'], **self.scale.yaml['scenarios'].get(scenario, {}).get('run', {})}
        return int(str(run['eval_interval']).removesuffix('ep'))

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

    def reached(self, entry: Entry) -> str:
        """The entry's test accuracy: mean, deviation, n where it is not the scale's, and runs that came to nothing."""
        values = list(entry.last('test_accuracy').values())
        facts = [f'n = {len(values)}'] if len(values) != self.scale.yaml['seeds'] else []
        failed = len(entry.lines) - len(values)
        facts += [f'{failed} diverged'] if failed else []
        return spread(values) + (f' ({", ".join(facts)})' if facts else '')

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

    def cheapest(self, scenario: str, arm: str, threshold: float, key: str = 'test_accuracy') -> Reached | None:
        """What it takes to an accuracy, on the budget where that is the least work.

        All seeds must reach it; a run counts up to its first test that does.
        """
        found = []
        for budget in self.budgets(scenario, arm):
            entry = self.entry(scenario, arm, budget)
            assert entry is not None
            reached = [first_epoch_at(entry.lines[number]['epochs'], threshold, key) for number in entry.numbers]
            if not all(reached):
                continue
            epochs, work, seconds = [], [], []
            for number, epoch in zip(entry.numbers, reached, strict=True):
                assert epoch is not None
                so_far = {**entry.lines[number], 'epochs': [epoch]}
                costs, timed = self.costs(so_far), self.costs(so_far, seconds=True)
                assert costs is not None
                epochs.append(epoch['epoch'])
                work.append(costs.total())
                seconds.append(timed.total() if timed else math.nan)
            found.append(Reached(*map(statistics.fmean, (epochs, work, seconds)), budget))
        return min(found, key=lambda one: one.work, default=None)


@dataclass(frozen=True)
class Reached:
    """What it took to an accuracy: epochs, multiply-adds and seconds, teachers and harvest inside.

    Seconds are not a number where the rates are not known.
    """

    epochs: float
    work: float
    seconds: float
    budget: int


def first_epoch_at(epochs: Iterable[Line], threshold: float, key: str) -> Line | None:
    """The first epoch at or above an accuracy; nothing is interpolated."""
    # Accuracies come out of float32 counters: equal ones must count.
    return next((epoch for epoch in epochs if epoch.get(key, -math.inf) >= threshold - 5e-7), None)


def refuse_another(cell: Cell, line: Line) -> None:
    """Refuse a finished run that was another one than the scale's cell of that name."""
    config = _respelt(line.get('config') or {})
    found = next(_differences(cell.entry, config), None) if config else None
    if found is not None:
        key, here, there = found
        raise UserError(
            f'{cell.name}: the results have it with {key}={there!r}, and the scale says {here!r}; give the changes '
            f'that it was trained with, or another folder (--results)'
        )


_OWN_KEYS = {'curriculum': 'LossCurriculum', 'start': 'WarmStart', 'adversarial': 'AdversarialRecycling'}


def _respelt(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spell the settings of committed results as today: some algorithms had keys of their own beside ``algorithms``."""
    own = {name: config[key] for key, name in _OWN_KEYS.items() if config.get(key) is not None}
    rest = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    return {**rest, 'algorithms': {**(rest.get('algorithms') or {}), **own}} if own else rest


# What may be otherwise on another machine, and teaches a run nothing else.
_OF_THE_MACHINE = ('device', 'compile', 'save_interval')


def _differences(entry: Any, config: Any, at: str = '') -> Iterator[tuple[str, Any, Any]]:
    if isinstance(entry, Mapping) and isinstance(config, Mapping):
        for key, value in entry.items():
            if key not in _OF_THE_MACHINE:
                yield from _differences(value, config.get(key), f'{at}.{key}' if at else key)
    elif isinstance(entry, list) and isinstance(config, list) and len(entry) == len(config):
        for place, pair in enumerate(zip(entry, config, strict=True)):
            yield from _differences(*pair, f'{at}[{place}]')
    elif entry != config and not (isinstance(config, str) and config.endswith(f'/{entry}')):  # A run, by its folder.
        yield at, entry, config


def _tested_at(line: Line, every: int) -> Line:
    """The line with its evaluations at multiples of so many epochs, and the last one."""
    last = len(line['epochs'])
    kept = [
        epoch
        if place == last or epoch['epoch'] % every == 0
        else {key: value for key, value in epoch.items() if not key.startswith(_EVALUATED)}
        for place, epoch in enumerate(line['epochs'], 1)
    ]
    return {**line, 'epochs': kept}


_EVALUATED = ('test_', 'val_', 'train_accuracy_clean')


def _how_measured(alone: Iterable[Line], plain: Sequence[float]) -> str:
    lines = list(alone)
    dates = sorted(line['finished_at'][:10] for line in lines)
    threads = sorted({str(line['hardware'].get('threads', '?')) for line in lines})
    between = f', the fastest and the slowest {100 * (max(plain) / min(plain) - 1):.0f} % apart' if plain[1:] else ''
    return (
        f'medians of {len(lines)} short runs with nothing beside them (`--alone`, {dates[0]}, '
        f'{" or ".join(threads)} threads{between})'
    )


def took(line: Line) -> float:
    """Seconds of a run in the study, evaluation inside; none for one that failed."""
    return sum(last['seconds_train_total'] + last.get('seconds_eval_total', 0.0) for last in line['epochs'][-1:])


def _multiply_adds(student: float, teacher: float, looked_up: float) -> Costs:
    return Costs(student, teacher)


def _percent(key: str, value: float) -> float:
    return 100 * value if 'accuracy' in key or key == 'agreement' else value
