"""The table of how arms stand up to drift."""

from __future__ import annotations

from composer_kd.report.caveats import mark_arm
from composer_kd.report.summary import Summary
from composer_kd.report.table import Table, filled
from composer_kd.report.wording import MISSING, PERCENT, Unit, with_spread

__all__ = ['robustness_tables']

_RATIO = Unit('', digits=3)


def robustness_tables(summary: Summary) -> list[Table]:
    """A row for each arm that was measured; nothing where none was."""
    found = summary.robustness
    if found is None:
        return []
    rows = []
    for arm in summary.arms:
        own = found.arms.get(arm.name)
        if own is None:
            continue
        effective = MISSING if own.effective is None else f'{100 * own.effective:+.2f}'
        rows.append(
            (
                mark_arm(arm.arm),
                str(own.clean.n),
                with_spread(own.clean, PERCENT),
                with_spread(own.drifted, PERCENT),
                with_spread(own.drop, PERCENT),
                with_spread(own.corruption_error, _RATIO),
                with_spread(own.relative_corruption_error, _RATIO),
                effective,
                own.worst,
                with_spread(own.at_worst, PERCENT),
                with_spread(own.worst_group, PERCENT),
                with_spread(own.calibration_error, PERCENT),
            )
        )
    columns = (
        'arm',
        'n',
        'clean',
        'under drift',
        'drop',
        'mCE',
        'relative mCE',
        'effective robustness',
        'worst drift',
        'under it',
        f'worst {found.groups}',
        'calibration error, %',
    )
    many = f'{len(found.drifts)} drifts' if len(found.drifts) > 1 else ''.join(found.drifts)
    against = f'; mCE against {summary.baseline.name}' if found.kinds else ''
    title = f'Robustness to drift: test accuracy, %, over {many}{against}'
    return [Table(title, *filled(columns, rows), labels=2, section='robustness')]
