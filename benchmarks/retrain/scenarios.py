"""Tables that some scenarios have of their own: generations in a row, and a search."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks.paired import Paired, spread
from benchmarks.retrain.measures import Entry, Study
from benchmarks.retrain.table import NOTHING, markdown_table

__all__ = ['generations', 'search']


def generations(study: Study, scenario: str) -> str:
    """Each generation beside the one that taught it: does a student always lag behind its teacher?"""
    rows = []
    for arm in study.scale.families:
        for budget in study.budgets(scenario, arm) if arm.startswith('gen') else ():
            entry = study.entry(scenario, arm, budget)
            assert entry is not None
            own, taught_by = entry.last('test_accuracy'), {}
            for number in entry.numbers:
                teacher = study.lines.get(entry.lines[number]['needs'][0])
                if teacher is not None:
                    taught_by[number] = 100 * teacher['epochs'][-1]['test_accuracy']
            if not taught_by:
                continue
            ahead = Paired.of([own[number] - taught_by[number] for number in taught_by])
            rows.append(
                [f'`{arm}`', str(budget), spread(list(taught_by.values())), spread(list(own.values())), str(ahead)]
            )
    note = (
        'Every generation begins anew, on the same budget. Ahead of its teacher, paired by seed: above zero, it leads.'
    )
    return markdown_table(
        'Students and their teachers', ['arm', 'epochs', 'teacher', 'student', 'ahead of it'], rows, note
    )


def search(study: Study, scenario: str) -> str:
    """A search alone, and the same search with every run taught by the one that it began with."""
    alone, taught = (_by_rate(study, scenario, family) for family in ('search', 'search_kd'))
    if not (alone or taught):
        return ''
    first = float(study.scale.families['search'][0].partition('@')[2])
    if first in alone and taught:
        taught[first] = alone[first]  # The run that the others learn from is one of both searches.
    searches = (alone, taught)
    rows = []
    for rate in sorted({*alone, *taught}):
        cells = [f'{_mean(runs[rate]):.1f}' if rate in runs else NOTHING for runs in searches]
        rows.append([f'{rate:g}' + (', which teaches' if rate == first else ''), *cells])
    rows.append(['the one chosen on the validation part', *map(_chosen, searches)])
    means = [statistics.fmean(map(_mean, runs.values())) if runs else None for runs in searches]
    rows.append(['mean of all', *(NOTHING if mean is None else f'{mean:.1f}' for mean in means)])
    rows.append(['work, 10^12 multiply-adds', *(f'{_work(study, runs):.1f}' for runs in searches)])
    return markdown_table('The search, rate by rate', ['learning rate', 'alone', 'taught by the first'], rows)


def _by_rate(study: Study, scenario: str, family: str) -> dict[float, Entry]:
    found = {}
    for arm in study.scale.families.get(family, []):
        for budget in study.budgets(scenario, arm):
            entry = study.entry(scenario, arm, budget)
            assert entry is not None
            found[float(arm.partition('@')[2])] = entry
    return found


def _mean(entry: Entry, key: str = 'test_accuracy') -> float:
    return statistics.fmean(entry.last(key).values())


def _chosen(runs: Mapping[float, Entry]) -> str:
    """Whatever chooses looks at the validation part; what it gets is the test accuracy."""
    if not runs:
        return NOTHING
    rate = max(runs, key=lambda one: _mean(runs[one], 'val_accuracy'))
    return f'{_mean(runs[rate]):.1f} ({rate:g})'


def _work(study: Study, runs: Mapping[float, Entry]) -> float:
    costs = [study.mean_costs(entry) for entry in runs.values()]
    return sum(cost.total() for cost in costs if cost is not None) / 1e12
