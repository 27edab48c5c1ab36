"""The table of models that take over from others."""

from __future__ import annotations

from composer_kd.report.caveats import SHARED, mark_arm
from composer_kd.report.summary import Summary
from composer_kd.report.table import Table, filled
from composer_kd.report.wording import PERCENT, unit_for, with_spread

__all__ = ['takeover_tables']


def takeover_tables(summary: Summary) -> list[Table]:
    """A row for each arm that replaces another run; nothing where none does."""
    found = summary.takeovers
    if not found:
        return []
    adds = unit_for('multiply_adds', (one.multiply_adds.mean for one in found.values() if one.multiply_adds))
    time = unit_for('seconds', (one.seconds.mean for one in found.values() if one.seconds))
    rows = []
    for arm in summary.arms:
        own = found.get(arm.name)
        if own is None:
            continue
        missed = f'not recovered (0/{own.of})' if own.of > 1 else 'not recovered'
        at_all = None if own.recovered else missed
        rows.append(
            (
                mark_arm(arm.arm) + (f' {SHARED}' if own.seconds and arm.arm.shared else ''),
                str(own.of),
                with_spread(own.before, PERCENT),
                with_spread(own.aged, PERCENT, own.of),
                with_spread(own.after, PERCENT),
                missed if own.epochs is None else with_spread(own.epochs, unit_for('epochs', ()), own.of),
                at_all or with_spread(own.seconds, time, own.of),
                at_all or with_spread(own.multiply_adds, adds, own.of),
                with_spread(own.forgotten, PERCENT, own.of),
            )
        )
    columns = (
        'arm',
        'n',
        'replaced model, its data',
        'replaced model, new data',
        'new model, new data',
        'epochs to recover',
        f'{time.name} to recover',
        f'multiply-adds to recover, {adds.name}',
        'forgotten, points',
    )
    return [Table('Taking over: test accuracy, %', *filled(columns, rows), labels=2, section='takeover')]
