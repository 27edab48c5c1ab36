"""The table of what is left of arms' accuracy under attack."""

from __future__ import annotations

from composer_kd.report.caveats import mark_arm
from composer_kd.report.summary import Summary
from composer_kd.report.table import Table
from composer_kd.report.wording import PERCENT, with_spread

__all__ = ['attack_tables']


def attack_tables(summary: Summary) -> list[Table]:
    """A row for each arm that was attacked; nothing where none was."""
    found = summary.under_attack
    if found is None:
        return []
    rows = tuple(
        (
            mark_arm(arm.arm),
            str(arm.n),
            with_spread(own.accuracy, PERCENT, arm.n),
            *(with_spread(own.robust[attack], PERCENT, arm.n) for attack in found.attacks),
        )
        for arm in summary.arms
        if (own := found.arms.get(arm.name)) is not None
    )
    of = found.split if found.samples is None else f'{found.samples:,} {found.split}'
    title = f'Under attack: accuracy on {of} samples, %'
    return [Table(title, ('arm', 'n', 'as they are', *found.attacks), rows, labels=2, section='attack')]
