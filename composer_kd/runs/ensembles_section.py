"""The ``ensembles:`` of a file: names of its runs that are evaluated as one when all of them have finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.core.errors import UserError, nearest
from composer_kd.data.drift.base import effective_drifts
from composer_kd.runs.config import RunConfig
from composer_kd.runs.ensemble import Ensemble, measure_ensemble
from composer_kd.runs.references import nth
from composer_kd.storage.atomic import atomic_write

__all__ = ['ENSEMBLES', 'PlannedEnsemble', 'plan_ensembles', 'write_ensembles']

ENSEMBLES = 'ensembles.json'

# What decides which samples a run is tested on.
_SAME_DATA = ('source', 'synthetic', 'image_size')


@dataclass(frozen=True)
class PlannedEnsemble:
    """Runs that are evaluated as one.

    Attributes:
        name: Of the ensemble.
        members: As the file calls them.
        seeds: For each seed the runs that are meant, in the same order.
    """

    name: str
    members: tuple[str, ...]
    seeds: tuple[tuple[str, ...], ...]


def plan_ensembles(
    section: Mapping[str, Sequence[str]], repeats: Mapping[str, int], configs: Mapping[str, RunConfig]
) -> tuple[PlannedEnsemble, ...]:
    """Find the runs that a file's ensembles name; seeds are paired as a student's are with its teachers'.

    Args:
        section: Names to members.
        repeats: The names of the file's runs, and how many seeds each has.
        configs: What each run does, by its own name.
    """
    return tuple(_plan(name, members, repeats, configs) for name, members in section.items())


def _plan(
    name: str, members: Sequence[str], repeats: Mapping[str, int], configs: Mapping[str, RunConfig]
) -> PlannedEnsemble:
    where = f'ensembles.{name}'
    known = {*repeats, *configs}
    if name in known:
        raise UserError(f'{where}: a run is called {name!r} too; give the ensemble another name')
    if not members:
        raise UserError(f'{where}: expected names of runs of this file, got none')
    for member in members:
        if member not in known:
            raise UserError(f'{where}: {member!r} is no run of this file; {nearest(member, known)}')
    counts = sorted({repeats.get(member, 1) for member in members} - {1})
    if len(counts) > 1:
        raise UserError(
            f'{where}: its members are repeated {" and ".join(map(str, counts))} times; name single ones, as in '
            f'{nth(members[0], 0, 2)!r}, or repeat them alike (then seeds are paired)'
        )
    numbers = range(counts[0] if counts else 1)
    seeds = tuple(tuple(nth(one, number, repeats.get(one, 1)) for one in members) for number in numbers)
    for runs in seeds:
        for member, run in zip(members, runs, strict=True):
            if runs.count(run) > 1:
                raise UserError(f'{where}: {member!r} is there twice ({run}); name each member once')
            _check_data(where, runs[0], run, configs)
    return PlannedEnsemble(name, tuple(members), seeds)


def _check_data(where: str, first: str, run: str, configs: Mapping[str, RunConfig]) -> None:
    for key in _SAME_DATA:
        theirs, ours = (getattr(configs[one].data, key) for one in (first, run))
        if ours != theirs:
            raise UserError(
                f'{where}: {run!r} has another data.{key} than {first!r}; an ensemble is of runs of one data set'
            )
    theirs, ours = (
        [drift.description('test') for drift in effective_drifts(configs[one].data.drift or (), 'test')]
        for one in (first, run)
    )
    if ours != theirs:
        raise UserError(
            f'{where}: a data.drift moves the test data of {run!r} and {first!r} differently; an ensemble is of runs '
            f'that are tested on the same images (parts: [train] leaves those as they are)'
        )


def write_ensembles(
    folder: Path,
    lineage: str,
    ensembles: Sequence[PlannedEnsemble],
    device: str,
    say: Callable[[str], None],
) -> None:
    """Measure ensembles of finished runs on the test data, say their accuracies, and keep them for the report.

    Args:
        folder: Where the run directories are.
        lineage: Whose ensembles; those of other lineages in the folder stay.
        ensembles: Which.
        device: Where models are asked that kept no predictions.
        say: Takes a line for each.
    """
    kept = _of_others(folder / ENSEMBLES, lineage)
    for planned in ensembles:
        found = [measure_ensemble([folder / run for run in runs], device=device, say=say) for runs in planned.seeds]
        say(_line(planned, found))
        seeds = []
        for ensemble, runs in zip(found, planned.seeds, strict=True):
            values = ensemble.as_json()
            # Run directories move together with this file: they are called by their names in its folder.
            members = [{**member, 'run': run} for member, run in zip(values['members'], runs, strict=True)]
            seeds.append({**values, 'members': members})
        kept[planned.name] = {'lineage': lineage, 'members': list(planned.members), 'seeds': seeds}
    document = {'format': 'composer_kd.ensembles', 'version': 1, 'ensembles': kept}
    atomic_write(folder / ENSEMBLES, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + '\n')


def _of_others(file: Path, lineage: str) -> dict[str, Any]:
    """What other lineages have written; a file that is none of ours is written anew."""
    try:
        ensembles = json.loads(file.read_text(encoding='utf-8'))['ensembles']
        return {name: one for name, one in ensembles.items() if one['lineage'] != lineage}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _line(planned: PlannedEnsemble, seeds: Sequence[Ensemble]) -> str:
    def mean(accuracies: Sequence[float]) -> float:
        return sum(accuracies) / len(accuracies)

    logits = mean([one.logits[-1].accuracy for one in seeds])
    probabilities = mean([one.probabilities[-1].accuracy for one in seeds])
    alone = [mean([one.members[place].quality.accuracy for one in seeds]) for place in range(len(planned.members))]
    best = max(range(len(alone)), key=alone.__getitem__)
    over = f', mean of {len(seeds)} seeds' if len(seeds) > 1 else ''
    return (
        f'{planned.name} ({", ".join(planned.members)}): test accuracy {100 * logits:.1f} % by logits, '
        f'{100 * probabilities:.1f} % by probabilities; {planned.members[best]} alone {100 * alone[best]:.1f} %{over}'
    )
