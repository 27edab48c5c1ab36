"""The tables about models as they are used: ensembles of them, and what one costs."""

from __future__ import annotations

from composer_kd.report.caveats import SHARED, mark_arm
from composer_kd.report.inference import BATCHES, differ_in_model, relative
from composer_kd.report.measures import Spread
from composer_kd.report.summary import Summary
from composer_kd.report.table import Table, filled
from composer_kd.report.wording import MISSING, PERCENT, Unit, mean_text, times, unit_for, with_spread

__all__ = ['model_tables']

_PARAMETERS = Unit('M', 1e6, 3)
_SPEED = Unit('images/s', digits=0)


def model_tables(summary: Summary) -> list[Table]:
    """Ensembles, where there are any; size, operations and speed, where the arms differ in their model."""
    found = [_ensembles(summary)]
    if differ_in_model(arm.arm for arm in summary.arms) and any(arm.inference.parameters for arm in summary.arms):
        found.append(_size_and_speed(summary))
    return [table for table in found if table.rows]


def _ensembles(summary: Summary) -> Table:
    rows = [
        (
            one.name,
            ', '.join(one.members),
            str(one.logits.n),
            with_spread(one.logits, PERCENT),
            with_spread(one.probabilities, PERCENT),
            one.best,
            with_spread(one.alone, PERCENT),
            with_spread(one.at_least_one, PERCENT),
        )
        for one in summary.ensembles
    ]
    columns = (
        'ensemble', 'members', 'n', 'by logits', 'by probabilities', 'best member', 'it alone', 'at least one right',
    )  # fmt: skip
    return Table('Ensembles: test accuracy, %', columns, tuple(rows), labels=2, section='ensembles')


def _size_and_speed(summary: Summary) -> Table:
    models = [arm.inference for arm in summary.arms]
    adds = unit_for('multiply_adds', (one.multiply_adds.mean for one in models if one.multiply_adds))
    rows = []
    for arm, model, against in zip(summary.arms, models, relative(models), strict=True):
        measured = any(model.images_per_second.values())
        rows.append(
            (
                mark_arm(arm.arm) + (f' {SHARED}' if measured and arm.arm.shared else ''),
                _mean(model.parameters, _PARAMETERS),
                _mean(model.multiply_adds, adds),
                *(with_spread(model.images_per_second.get(batch), _SPEED, arm.n) for batch in BATCHES),
                with_spread(arm.accuracy[summary.primary.name].last, PERCENT, arm.n),
                _times(against.smaller),
                *(_times(against.faster[batch]) for batch in BATCHES),
            )
        )
    columns = (
        'arm',
        f'parameters, {_PARAMETERS.name}',
        f'multiply-adds, {adds.name}'.rstrip(', '),
        *(f'images/s at {batch}' for batch in BATCHES),
        f'{summary.primary.title}, %',
        'smaller',
        *(f'faster at {batch}' for batch in BATCHES),
    )
    return Table(
        'Size, operations, speed: of one model, and against the largest of them', *filled(columns, rows), section='size'
    )


def _mean(spread: Spread | None, unit: Unit) -> str:
    """The seeds of an arm have one model, so a deviation would say nothing."""
    return MISSING if spread is None else mean_text(spread, unit)


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else times(ratio)
