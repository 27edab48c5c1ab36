"""What a scale costs, arm by arm and phase by phase: counted from its plan; hours at the rate of the runs so far."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmarks.retrain.cells import Cell, Scale
from benchmarks.retrain.measures import Line, took
from benchmarks.retrain.table import NOTHING, markdown_table
from composer_kd.core.schedule import Progress, Schedule
from composer_kd.models import build_model, multiply_adds

__all__ = ['ledger']

TRAINING_PASSES = 3
# The plan does not say how many samples of CIFAR-100 train; the data are not needed to count.
TRAIN_SAMPLES = {'data/cifar100': 50_000, 'data/fashion_mnist': 60_000}
SHAPES = {'data/fashion_mnist': (1, 28, 28)}
CLASSES = {'data/fashion_mnist': 10}


def ledger(scale: Scale, lines: Mapping[str, Line]) -> str:
    """The tables of a scale, whether anything of it has run or not.

    Args:
        scale: Its cells are all counted, those that wait for a grid with any of its values.
        lines: The finished ones.
    """
    known = Scale(scale.name, scale.changes, lambda name: 0.0)
    hours = _hours_of_a_multiply_add(lines)
    phases, arms = [], {}
    counted: set[str] = set()
    for phase in known.phases():
        cells = [cell for cell in known.cells([phase['name']]) if cell.name not in counted]
        counted |= {cell.name for cell in cells}
        work = [sum(_work(cell)) for cell in cells]
        done = sum(_is_done(cell, lines, 'tune' in phase) for cell in cells)
        what = ', '.join(phase.get('arms') or [f'the grid of {name}' for name in phase['tune']])
        phases.append(
            [
                f'`{phase["name"]}`',
                what,
                str(len(cells)),
                str(done),
                f'{sum(work) / 1e12:,.0f}',
                f'{hours * sum(work):.1f}' if hours else NOTHING,
            ]
        )
        for cell, one in zip(cells, work, strict=True):
            # One of several values of a key costs what the others do.
            arms.setdefault((cell.scenario, cell.arm.partition('@')[0]), {})[cell.budget] = one
    budgets = sorted({budget for costs in arms.values() for budget in costs})
    rows = [
        [
            f'`{scenario}` `{arm}`',
            *(f'{costs[budget] / 1e12:.1f}' if budget in costs else NOTHING for budget in budgets),
        ]
        for (scenario, arm), costs in arms.items()
    ]
    head = ['phase', 'arms', 'runs', 'finished', 'multiply-adds, 10^12', 'hours of a worker, estimated']
    by_phase = markdown_table(f'The scale `{scale.name}`, phase by phase', head, phases)
    by_arm = markdown_table(
        f'The scale `{scale.name}`, arm by arm: multiply-adds of one run in 10^12, live teachers inside',
        ['scenario, arm', *(f'{budget} epochs' for budget in budgets)],
        rows,
    )
    return f'{by_phase}\n\n{by_arm}'


def _is_done(cell: Cell, lines: Mapping[str, Line], of_a_grid: bool) -> bool:
    """By what it is: a cell that took its values from a grid may be called otherwise."""
    if cell.name in lines:
        return True
    if of_a_grid:  # Its arm's other points are other runs.
        return False
    facts = (cell.scenario, cell.arm, cell.budget, cell.number)
    return any((line['scenario'], line['arm'], line['budget'], line['number']) == facts for line in lines.values())


def _work(cell: Cell) -> tuple[float, float]:
    """Multiply-adds of the student's training and of its live teachers."""
    entry = cell.entry
    samples = _samples(entry['data'])
    batches = samples // entry['batch_size']
    images = batches * entry['batch_size'] * cell.budget
    own = float(TRAINING_PASSES * _of_an_image(entry) * images)
    teachers = 0.0
    for options in entry.get('algorithms', {}).values():
        live = [name['live'] for name in options.get('teachers', []) if 'live' in name]
        asked = 1 if options.get('mix') == 'random_one' else len(live)
        by_name = {need.name: need for need in cell.needs}
        if live:
            share = _share(options.get('schedule', 'always'), cell.budget, batches)
            teachers += share * asked * images * _of_an_image(by_name[live[0]].entry)
    return own, teachers


@cache
def _share(schedule: str, budget: int, batches: int) -> float:
    """In which part of the steps the teachers are asked; 'until overtaken' may be less than this."""
    when = Schedule(schedule)
    steps = [
        Progress(epoch=epoch, batch=epoch * batches + batch, batch_in_epoch=batch, epoch_length=batches, epochs=budget)
        for epoch in range(budget)
        for batch in range(batches)
    ]
    return sum(when.weight(step) > 0 for step in steps) / len(steps)


_COSTS: dict[tuple[str, str], int] = {}


def _of_an_image(entry: Mapping[str, Any]) -> int:
    source = entry['data']['source']
    key = (repr(entry['model']), source)
    if key not in _COSTS:
        shape = SHAPES.get(source, (3, 32, 32))
        _COSTS[key] = multiply_adds(build_model(entry['model'], CLASSES.get(source, 100), shape), shape)
    return _COSTS[key]


def _samples(data: Mapping[str, Any]) -> int:
    whole = TRAIN_SAMPLES.get(data['source']) or data['synthetic']['train_size']
    return min(data.get('subset') or whole, round(whole * (1 - data['val_fraction'])))


def _hours_of_a_multiply_add(lines: Mapping[str, Line]) -> float | None:
    """Evaluation inside, as the study's runs took them."""
    ended = [line['epochs'][-1] for line in lines.values() if line['epochs']]
    work = sum(last['multiply_adds_student_total'] + last['multiply_adds_teacher_total'] for last in ended)
    return sum(map(took, lines.values())) / work / 3600 if work else None
