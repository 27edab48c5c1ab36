"""From a YAML file to runs in an order: one run, or a lineage of named ones that learn from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from composer_kd.algorithms.roles import MakesExamples
from composer_kd.core.errors import UserError, name_fault, nearest
from composer_kd.core.options import check_keys, parse_section
from composer_kd.runs.config import MOST_SEEDS, FileConfig, RunConfig, named_mapping
from composer_kd.runs.ensembles_section import PlannedEnsemble, plan_ensembles
from composer_kd.runs.objects import check_objects
from composer_kd.runs.planned_run import PlannedRun
from composer_kd.runs.references import Names, check_sources, nth, record_for_later, resolve

__all__ = ['Plan', 'make_plan']

_MOST_RUNS = 10_000


@dataclass(frozen=True)
class Plan:
    """The runs of a file, each after those that it uses, and which of them are evaluated as one.

    Attributes:
        notes: Lines about what runs record because later ones need it.
    """

    name: str
    folder: Path
    runs: tuple[PlannedRun, ...]
    side_by_side: int | None = None
    ensembles: tuple[PlannedEnsemble, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, name: str) -> Plan:
        """The plan with one of its runs alone."""
        by_name = {run.name: run for run in self.runs}
        if name not in by_name:
            raise UserError(f'--only {name}: there is no such run; {nearest(name, by_name)}')
        return replace(self, runs=(by_name[name],), ensembles=(), notes=())


def make_plan(values: dict[str, Any], where: str = '') -> Plan:
    """Check a file's mapping and lay out its runs.

    Args:
        values: What the file says, the command line's changes included.
        where: How error lines call the file.
    """
    try:
        return _make_plan(values)
    except UserError as error:
        raise UserError(f'{where}: {error}' if where else str(error)) from None


def _make_plan(values: dict[str, Any]) -> Plan:
    if 'search' in values:
        raise UserError('search: searches are not there yet; write the runs out under lineage')
    file_keys = set(FileConfig.model_fields)
    check_keys(values, {*file_keys, *RunConfig.model_fields}, '')
    file = parse_section(FileConfig, {key: value for key, value in values.items() if key in file_keys}, '')
    base = {key: value for key, value in values.items() if key not in file_keys}
    folder = Path(file.save_folder)
    if file.lineage is None:
        entries = {file.name: base}
        repeats = {file.name: file.repeat}
        places = {file.name: ''}
    else:
        if not file.lineage:
            raise UserError('lineage: there is no run in it')
        entries, repeats, places = {}, {}, {}
        for name, own in file.lineage.items():
            own = {} if own is None else own
            place = f'lineage.{name}'
            if not isinstance(own, dict):
                raise UserError(f'{place}: expected a mapping of what this run changes, got {own!r}')
            repeat = own.get('repeat', file.repeat)
            if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= MOST_SEEDS:
                raise UserError(f'{place}.repeat: expected a whole number from 1 to {MOST_SEEDS}, got {repeat!r}')
            entries[name] = merge(base, {key: value for key, value in own.items() if key != 'repeat'}, place)
            repeats[name], places[name] = repeat, place
    if sum(repeats.values()) > _MOST_RUNS:
        raise UserError(f'lineage: these are {sum(repeats.values()):,} runs; a file has at most {_MOST_RUNS:,}')
    for name in entries:
        if (
            not name
            or '/' in name
            or '\\' in name
            or name.startswith('.')
            or name in ('report.html', 'report', 'ensembles.json')
        ):
            raise UserError(f'{name!r} cannot be the name of a run: it becomes a folder in {folder}')
        if fault := name_fault(name):
            raise UserError(f'{places[name] or "name"}: {name!r} {fault}')
    runs = [
        replace(run, lineage=None if file.lineage is None else file.name)
        for name, entry in entries.items()
        for run in _seeds_of(name, entry, repeats, places[name], folder)
    ]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise UserError(f'lineage: two runs would be called {name!r}; give them other names')
    runs, notes = record_for_later(runs)
    check_sources({run.name: run for run in runs})
    ensembles = plan_ensembles(file.ensembles, repeats, {run.name: run.config for run in runs})
    return Plan(file.name, folder, _in_order(runs), file.side_by_side, ensembles, tuple(notes))


def merge(base: dict[str, Any], own: dict[str, Any], place: str = '') -> dict[str, Any]:
    """``base`` with what a run says for itself put over it, mapping by mapping.

    A section that names another thing (``model: {name: mlp}``) replaces the base's whole: its options belong to the
    other. ``algorithms``, ``callbacks`` and ``loggers`` are merged by name; ``null`` takes away what the base has.

    Args:
        base: What all runs have.
        own: What this one says.
        place: Of ``own`` in the file.
    """
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if key in ('algorithms', 'callbacks', 'loggers') and value is not None:
            merged[key] = _merge_named(_as_mapping(below, key), _as_mapping(value, f'{place}.{key}'.lstrip('.')))
        elif (
            isinstance(below, dict)
            and isinstance(value, dict)
            and value.get('name', below.get('name')) == below.get('name')
        ):
            merged[key] = merge(below, value, f'{place}.{key}'.lstrip('.'))
        else:
            merged[key] = value
    return merged


def _merge_named(below: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = {name: options or {} for name, options in below.items()}
    for name, options in own.items():
        if options is None and name in merged:
            del merged[name]
        else:
            merged[name] = merge(merged.get(name, {}), options or {})
    return merged


def _as_mapping(value: Any, where: str) -> dict[str, Any]:
    """Names to options; ``null`` options stay, they may mean 'without'."""
    try:
        named = named_mapping(value)
    except ValueError as error:
        raise UserError(f'{where}: {error}') from None
    return value if isinstance(value, dict) else dict(named)


def _seeds_of(
    name: str, entry: dict[str, Any], repeats: dict[str, int], place: str, folder: Path
) -> Iterable[PlannedRun]:
    config = parse_section(RunConfig, entry, place)
    numbers = range(repeats[name])
    resolved = [resolve(config, Names(repeats, name, number, folder), place) for number in numbers]
    algorithms = check_objects(config, place)
    makes_examples = any(isinstance(one, MakesExamples) and one.makes_examples for one in algorithms)
    for number, (changes, uses) in zip(numbers, resolved, strict=True):
        own_name = nth(name, number, repeats[name])
        yield PlannedRun(
            name=own_name,
            arm=name,
            config=config.model_copy(update={'seed': config.seed + number, **changes}),
            folder=folder / own_name,
            uses=uses,
            makes_examples=makes_examples,
        )


def _in_order(runs: list[PlannedRun]) -> tuple[PlannedRun, ...]:
    """Each after those that it learns from, otherwise as in the file."""
    sorter = TopologicalSorter({run.name: run.after for run in runs})
    try:
        sorter.prepare()
    except CycleError as error:
        circle = ' -> '.join(reversed(error.args[1]))
        raise UserError(f'lineage: {circle} is a circle: a run cannot wait for one that waits for it') from None
    position = {run.name: place for place, run in enumerate(runs)}
    ready = [position[name] for name in sorter.get_ready()]
    heapify(ready)
    ordered: list[PlannedRun] = []
    while ready:
        ordered.append(runs[heappop(ready)])
        sorter.done(ordered[-1].name)
        for name in sorter.get_ready():
            heappush(ready, position[name])
    return tuple(ordered)
