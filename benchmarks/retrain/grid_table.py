"""The grids of rates and weight decays: what each point reached, and whose values an arm has."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.retrain.measures import Line, Study
from benchmarks.retrain.table import NOTHING, markdown_table

__all__ = ['grid_table']


def grid_table(study: Study) -> str:
    rows = []
    scale = study.scale
    inside = [_values(point) for point in scale.grid]
    outside = dict.fromkeys(
        _values(point)
        for family, budgets in scale.yaml['tune'].items()
        for budget in budgets
        for point in scale.beyond(family, budget)
    )
    for phase in scale.phases():
        for family, budget in scale.tuned_by(phase):
            reached = {}
            for point in scale.grid + scale.beyond(family, budget):
                cell = scale.cell(phase['scenario'], family, budget, 0, point)
                reached[_values(point)] = _validated(study.lines.get(cell.name)) if cell else None
            if any(reached.values()):
                best = max(reached[name] or 0.0 for name in inside)
                shown = [_shown(reached.get(name), best) for name in inside]
                shown += [_shown(reached.get(name), None) for name in outside]
                rows.append([f'`{family}`', phase['scenario'], str(budget), *shown])
    note = (
        f'Validation accuracy of the last epoch, first seed. The grid is the same for all arms and was written down '
        f'before the runs. Where its highest rate won, one beyond it shows what it cuts off; that one is not chosen '
        f'from. Scenarios without a grid have the values of `same`. {_borrowing(study)}'
    )
    return markdown_table(
        '## The grid', ['arm', 'scenario', 'epochs', *inside, *(f'beyond: {name}' for name in outside)], rows, note
    )


def _values(point: Mapping[str, float]) -> str:
    return ', '.join(f'{key.rpartition(".")[2]} {value:g}' for key, value in point.items())


def _shown(value: float | None, best: float | None) -> str:
    if value is None:
        return NOTHING
    text = f'{100 * value:.1f}' if value else 'NaN'
    return f'**{text}**' if value == best else text


def _borrowing(study: Study) -> str:
    """Which arms have the values of another one's grid, and which budgets those of another budget."""
    scale = study.scale
    others: dict[str, list[str]] = {}
    lengths: dict[str, list[str]] = {}
    for (_, arm, budget), entry in study.entries.items():
        if not entry.numbers or scale.arms[arm].get('recipe') == 'baseline':
            continue
        family, name = scale.family_of(arm), f'`{arm.partition("@")[0]}`'
        if family != arm and name not in others.setdefault(family, []):
            others[family].append(name)
        tuned = scale.tuned_at(family, budget)
        if tuned != budget and str(budget) not in lengths.setdefault(f'{family}, {tuned}', []):
            lengths[f'{family}, {tuned}'].append(str(budget))
    said = [f'The values of `{family}` are also those of {", ".join(arms)}.' for family, arms in others.items() if arms]
    for place, budgets in lengths.items():
        family, _, tuned = place.partition(', ')
        said.append(f'At {" and ".join(budgets)} epochs they are those of `{family}` at {tuned}.')
    return ' '.join(said)


def _validated(line: Line | None) -> float | None:
    """The validation accuracy that a run ended with; 0 for one that failed."""
    if line is None:
        return None
    return line['epochs'][-1]['val_accuracy'] if line['epochs'] else 0.0
