"""Tables that some scenarios have of their own: generations in a row, and a search."""

from __future__ import annotations

import statistics

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
    families = {name: study.scale.families.get(name, []) for name in ('search', 'search_kd')}
    found: dict[str, dict[float, Entry]] = {name: {} for name in families}
    for name, arms in families.items():
        for arm in arms:
            for budget in study.budgets(scenario, arm):
                entry = study.entry(scenario, arm, budget)
                assert entry is not None
                found[name][float(arm.partition('@')[2])] = entry
    if not any(found.values()):
        return ''

    def best(name: str) -> dict[float, float]:
        return {rate: statistics.fmean(e.last('test_accuracy').values()) for rate, e in found[name].items()}

    def work(name: str) -> float:
        costs = [study.mean_costs(entry) for entry in found[name].values()]
        return sum(cost.total() for cost in costs if cost is not None) / 1e12

    alone, taught = best('search'), best('search_kd')
    rows = []
    for rate in sorted({*alone, *taught}):
        cells = (f'{alone[rate]:.1f}' if rate in alone else NOTHING, f'{taught[rate]:.1f}' if rate in taught else '')
        rows.append([f'{rate:g}', cells[0], cells[1] or 'teaches'])
    for name, of in (('best', max), ('mean', statistics.fmean)):
        # Of the rates that both have: the first run of the search teaches the others.
        both = [rate for rate in alone if rate in taught]
        if both:
            cells = [f'{of([values[rate] for rate in both]):.1f}' for values in (alone, taught)]
            rows.append([f'{name} of the {len(both)} that both have', *cells])
    rows.append(['work, 10^12 multiply-adds', f'{work("search"):.1f}', f'{work("search_kd"):.1f}'])
    return markdown_table('The search, rate by rate', ['learning rate', 'alone', 'taught by the first'], rows)
