"""What a scale consists of: its cells, each a run with an arm, a budget and a seed; pure, from YAML and what is known.

A cell's rate and weight decay may come out of a grid, whose cells must be finished first: which cells there are depends
on the results so far.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from composer_kd.core.errors import UserError, nearest
from composer_kd.runs.plan import merge

__all__ = ['Cell', 'Scale']

HERE = Path(__file__).parent
# Seeds of students; the earlier iterations (and the baseline, which they are) begin at another one.
FIRST_SEED, FIRST_EARLIER_SEED = 17, 100
EARLIER = re.compile(r'earlier(?:\+(\d+))?')

Point = dict[str, float]


@dataclass(frozen=True)
class Cell:
    """One run of a scale.

    Args:
        scenario: What the data and the earlier iterations are like.
        arm: What is done.
        budget: Epochs.
        number: Which of the seeds.
        name: Of the run and of its folder.
        entry: What the run says for itself, as an entry of a lineage.
        needs: The cells whose outputs, losses or weights it uses.
        earlier: Whether it stands for an iteration that there was before, and is none that is compared.
    """

    scenario: str
    arm: str
    budget: int
    number: int
    name: str
    entry: Mapping[str, Any]
    needs: tuple[Cell, ...] = ()
    earlier: bool = False

    @property
    def family(self) -> tuple[Cell, ...]:
        """The cell and all that it needs, each after those that it needs."""
        ordered: dict[str, Cell] = {}
        for need in self.needs:
            ordered |= {cell.name: cell for cell in need.family}
        return (*ordered.values(), self)


@dataclass
class Scale:
    """A scale's YAML with the arms that all scales share.

    Args:
        name: ``smoke``, ``cpu``, ``h200``, or a path.
        changes: Applied to the run of the scale, as a mapping.
        accuracy: Gives the validation accuracy that a finished cell ended with, by its name; ``None`` for others.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Callable[[str], float | None] = lambda name: None

    def __post_init__(self) -> None:
        file = Path(self.name) if self.name.endswith('.yaml') else HERE / f'{self.name}.yaml'
        if not file.is_file():
            there = [path.stem for path in HERE.glob('*.yaml') if path.stem != 'arms']
            raise UserError(f'{self.name}: there is no such scale; {nearest(self.name, there)}')
        self.name = file.stem
        shared = yaml.safe_load((HERE / 'arms.yaml').read_text())
        self.yaml = merge(yaml.safe_load(file.read_text()), dict(self.changes))
        self.tuned: dict[str, Any] = shared['tuned']
        self.arms: dict[str, dict[str, Any]] = dict(_spread_out(shared['arms']))
        self.families: dict[str, list[str]] = {
            name: [arm for arm in self.arms if arm == name or arm.startswith(f'{name}@')] for name in shared['arms']
        }
        self.scenarios: dict[str, dict[str, Any]] = shared['scenarios']
        self.pairs: list[tuple[str, str]] = [(arm, other) for arm, other in shared['pairs']]
        self._points: dict[tuple[str, str, int], Point] = {}

    @property
    def full(self) -> int:
        return self.yaml['full']

    @property
    def grid(self) -> list[Point]:
        """The points that all families choose from, written down before the runs."""
        return _points(self.yaml['grid'])

    def beyond(self, family: str, budget: int) -> list[Point]:
        """Points outside the grid that are trained where its edge won: to see what was cut off, not to choose from."""
        wider = self.yaml.get('beyond', {'where': {}, 'grid': {}})
        return _points({**self.yaml['grid'], **wider['grid']}) if budget in wider['where'].get(family, []) else []

    # -- which cells ----------------------------------------------------------------------------------------------

    def phases(self, only: Iterable[str] = ()) -> list[dict[str, Any]]:
        names = [phase['name'] for phase in self.yaml['phases']]
        for name in only:
            if name not in names:
                raise UserError(f'{self.name}: there is no phase {name!r}; {nearest(name, names)}')
        return [phase for phase in self.yaml['phases'] if not only or phase['name'] in only]

    def cells(self, only: Iterable[str] = ()) -> Iterator[Cell]:
        """The cells that can be told by now, in the order of the phases; each once."""
        seen = set()
        for phase in self.phases(only):
            for cell in self._of_phase(phase):
                if cell is not None and cell.name not in seen:
                    seen.add(cell.name)
                    yield cell

    def waiting(self, only: Iterable[str] = ()) -> int:
        """How many cells wait for the grid."""
        return sum(cell is None for phase in self.phases(only) for cell in self._of_phase(phase))

    def budgets_of(self, phase: Mapping[str, Any]) -> list[int]:
        return {'full': [self.full], 'all': self.yaml['budgets']}.get(str(phase['budgets']), phase['budgets'])

    def arms_of(self, phase: Mapping[str, Any]) -> list[str]:
        """The arms that a phase compares; none where it tunes."""
        for name in phase.get('arms', []):
            if name not in self.families:
                raise UserError(f'{self.name}: there is no arm {name!r}; {nearest(name, self.families)}')
        return [arm for name in phase.get('arms', []) for arm in self.families[name]]

    def tuned_by(self, phase: Mapping[str, Any]) -> list[tuple[str, int]]:
        """The families and budgets whose grids a phase trains; none where it compares."""
        return [
            (family, budget)
            for family in phase.get('tune', [])
            for budget in self.yaml['tune'][family]
            if budget in phase.get('budgets', [budget])
        ]

    def numbers_of(self, phase: Mapping[str, Any]) -> range:
        return range(phase.get('seeds', self.yaml['seeds']))

    def _of_phase(self, phase: Mapping[str, Any]) -> Iterator[Cell | None]:
        scenario = phase['scenario']
        for family, budget in self.tuned_by(phase):
            for point in self.grid + self.beyond(family, budget):
                yield self.cell(scenario, family, budget, 0, point)
        if 'tune' in phase:
            return
        # Seed by seed: what is interrupted has compared all arms on some seeds.
        for number, budget in product(self.numbers_of(phase), self.budgets_of(phase)):
            for arm in self.arms_of(phase):
                yield self.cell(scenario, arm, budget, number)

    # -- one cell -------------------------------------------------------------------------------------------------

    def cell(self, scenario: str, arm: str, budget: int, number: int, point: Point | None = None) -> Cell | None:
        """The cell, or ``None`` while the grid that it takes its values from is not finished.

        Args:
            scenario: Its name.
            arm: Its name.
            budget: Epochs.
            number: Which seed.
            point: The values of a grid's cell; by default those that won.
        """
        spec = self.arms[arm]
        if not _asks_for_earlier(spec):
            # Nothing earlier: it is the same run wherever it stands beside others.
            scenario = self._like(scenario)
        is_baseline = arm == 'baseline'
        recipe = self.yaml['baseline'] if spec.get('recipe') == 'baseline' else self.tuned
        entry = merge(self.yaml['run'], recipe)
        entry = merge(entry, _patch_of(self.scenarios[scenario]))
        entry = merge(entry, self.yaml['scenarios'].get(scenario, {}).get('run', {}))
        entry = merge(entry, {key: value for key, value in spec.items() if key not in ('recipe', 'like')})
        if point is None:
            open_keys = [key for key in self.yaml['grid'] if _get(entry, key) == 'grid']
            point = self.point(scenario, self.family_of(arm), budget) if open_keys else {}
            if point is None:
                return None
            point = {key: point[key] for key in open_keys}
        for key, value in point.items():
            entry = _set(entry, key, value)
        needs: dict[str, Cell] = {}
        entry = self._with_names(entry, scenario, budget, number, needs)
        if entry is None:
            return None
        seed = (FIRST_EARLIER_SEED if is_baseline else FIRST_SEED) + number
        entry |= {'seed': seed, 'max_duration': f'{budget}ep'}
        if is_baseline:
            entry['archive'] = {'losses': True, 'logits': {'views': 4}}
        values = '.'.join(f'{key.rpartition(".")[2]}={value:g}' for key, value in point.items())
        name = '.'.join(filter(None, [scenario, arm, f'{budget}ep', values, f's{number}']))
        return Cell(scenario, arm, budget, number, name, entry, tuple(needs.values()))

    def earlier(self, scenario: str, number: int) -> Cell | None:
        """The earlier iteration with this number: the baseline's run, on what data there were then.

        Where a scenario names another arm, it is that arm's run of full length with the next number: students of one
        number share a seed with it otherwise. ``None`` while that arm waits for its grid.
        """
        arm = self.scenarios[scenario].get('earlier')
        if arm is not None:
            return self.cell(scenario, arm, self.full, (number + 1) % self.yaml['seeds'])
        number %= self.yaml['earlier']
        patch = self.yaml['scenarios'].get(scenario, {}).get('earlier', {})
        cell = self.cell(self._like(scenario) if not patch else scenario, 'baseline', self.full, number)
        assert cell is not None
        if not patch:
            return cell
        entry = merge(dict(cell.entry), patch)
        length = int(str(entry['max_duration']).removesuffix('ep'))
        name = f'{scenario}.earlier.{length}ep.s{number}'
        return Cell(scenario, 'earlier', length, number, name, entry, earlier=True)

    def family_of(self, arm: str) -> str:
        """Whose grid an arm's values come from: its own, where the scale has one, or that of the arm it is ``like``."""
        while arm not in self.yaml['tune'] and 'like' in self.arms[arm]:
            arm = self.arms[arm]['like']
        return arm

    def tuned_at(self, family: str, budget: int) -> int:
        """The nearest budget that the family was tuned for."""
        budgets = self.yaml['tune'].get(family)
        if budgets is None:
            raise UserError(f'{self.name}: tune has no {family!r}; name its budgets there, or say `like: scratch`')
        return min(budgets, key=lambda one: (abs(math.log(one / budget)), -one))

    def point(self, scenario: str, family: str, budget: int) -> Point | None:
        """The values that won the family's grid at the nearest budget that was tuned; ``None`` while it is open."""
        scenario = self.scenarios[scenario].get('tuned_in', 'same')
        tuned = self.tuned_at(family, budget)
        if (scenario, family, tuned) not in self._points:
            reached = []
            for point in self.grid:
                cell = self.cell(scenario, family, tuned, 0, point)
                found = None if cell is None else self.accuracy(cell.name)
                if found is None:
                    return None
                reached.append((found, point))
            self._points[scenario, family, tuned] = max(reached, key=lambda pair: pair[0])[1]
        return self._points[scenario, family, tuned]

    def _like(self, scenario: str) -> str:
        return self.scenarios[scenario].get('like', scenario)

    def _with_names(self, value: Any, scenario: str, budget: int, number: int, needs: dict[str, Cell]) -> Any:
        """``value`` with runs in the places of ``earlier`` and ``arm:NAME``; ``None`` if one cannot be told yet."""
        if isinstance(value, str):
            if match := EARLIER.fullmatch(value):
                cell = self.earlier(scenario, number + int(match[1] or 0))
            elif value.startswith('arm:'):
                cell = self.cell(scenario, value.removeprefix('arm:'), budget, number)
            else:
                return value
            if cell is None:
                return None
            needs[cell.name] = cell
            return cell.name
        if isinstance(value, list):
            named = [self._with_names(one, scenario, budget, number, needs) for one in value]
            return None if any(n is None and v is not None for n, v in zip(named, value, strict=True)) else named
        if isinstance(value, dict):
            inner = {key: self._with_names(one, scenario, budget, number, needs) for key, one in value.items()}
            return None if any(inner[key] is None and value[key] is not None for key in value) else inner
        return value


def _spread_out(arms: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every arm, and one for each value where it says ``over``."""
    for name, spec in arms.items():
        spec = dict(spec or {})
        over = spec.pop('over', None)
        if over is None:
            yield name, spec
            continue
        ((key, values),) = over.items()
        for value in values:
            # Under a key whose value the tuned recipe brings, the arm's own stands in its place.
            yield f'{name}@{value:g}', merge(spec, _nested(key, value))


def _points(grid: Mapping[str, Any]) -> list[Point]:
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def _nested(key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition('.')
    return {first: _nested(rest, value) if rest else value}


def _get(entry: Mapping[str, Any], key: str) -> Any:
    first, _, rest = key.partition('.')
    return _get(entry[first], rest) if rest else entry[first]


def _set(entry: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition('.')
    return {**entry, first: _set(entry[first], rest, value) if rest else value}


def _patch_of(scenario: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scenario.items() if key not in ('title', 'like', 'tuned_in', 'earlier')}


def _asks_for_earlier(value: Any) -> bool:
    if isinstance(value, str):
        return EARLIER.fullmatch(value) is not None
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(_asks_for_earlier(one) for one in inner)
