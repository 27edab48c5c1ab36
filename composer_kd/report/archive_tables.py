"""The tables about archives: what was recorded, what looking it up saved, and costs with the harvest counted."""

from __future__ import annotations

from dataclasses import replace

from composer_kd.report.caveats import SHARED, mark_arm
from composer_kd.report.harvest import HARVEST_COSTS
from composer_kd.report.measures import Spread
from composer_kd.report.summary import Summary
from composer_kd.report.table import Table, filled
from composer_kd.report.wording import MEGABYTES, MISSING, PERCENT, Unit, unit_for, with_spread

__all__ = ['archive_tables']


def archive_tables(summary: Summary) -> list[Table]:
    """As many of the three as there is something to say; none where nothing was recorded or looked up."""
    found = [_recorded(summary), _saved(summary)]
    if any(arm.archive.took_harvest for arm in summary.arms):
        found.append(_harvest_counted(summary))
    return [table for table in found if table.rows]


def _recorded(summary: Summary) -> Table:
    kinds = [(arm, stored) for arm in summary.arms for stored in arm.archive.stored]
    time = unit_for('seconds', (stored.seconds.mean for _, stored in kinds if stored.seconds))
    adds = unit_for('multiply_adds', (stored.multiply_adds.mean for _, stored in kinds if stored.multiply_adds))
    rows = [
        (
            mark_arm(arm.arm),
            stored.what,
            _count(stored.tables, arm.n),
            with_spread(stored.each, MEGABYTES),
            with_spread(stored.bytes, MEGABYTES),
            with_spread(stored.seconds, time),
            with_spread(stored.multiply_adds, adds),
        )
        for arm, stored in kinds
    ]
    columns = (
        'arm',
        'recorded',
        'tables',
        'a table, MB',
        'together, MB',
        f'took, {time.name}',
        f'multiply-adds, {adds.name}'.rstrip(', '),
    )
    title = 'The archive: what was recorded, and what that took (filling is inside the training of the students)'
    return Table(title, *filled(columns, rows), labels=2, section='archive')


def _saved(summary: Summary) -> Table:
    arms = [(arm, arm.archive.served) for arm in summary.arms if arm.archive.served]
    outputs = unit_for('outputs', (served.images.mean for _, served in arms if served.images))
    adds = unit_for('multiply_adds', (served.saved.mean for _, served in arms if served.saved))
    rows = [
        (
            mark_arm(arm.arm),
            str(arm.n),
            with_spread(served.images, outputs, arm.n),
            with_spread(served.share, PERCENT, arm.n),
            with_spread(served.saved, adds, arm.n),
            with_spread(served.less, PERCENT, arm.n),
        )
        for arm, served in arms
    ]
    columns = (
        'arm',
        'n',
        'looked up' if outputs.name == 'outputs' else f'looked up, {outputs.name}',
        'not computed, %',
        f'multiply-adds saved, {adds.name}',
        'less than live, %',
    )
    title = "The archive: teachers' outputs looked up, and what that saved of the training with live teachers"
    return Table(title, *filled(columns, rows), labels=2, section='archive')


def _harvest_counted(summary: Summary) -> Table:
    """All arms, so that they can be compared; those without a harvest cost what they cost."""
    wholes = {cost: [arm.archive.harvested[cost].whole for arm in summary.arms] for cost in HARVEST_COSTS}
    units = {cost: unit_for(cost, (whole.mean for whole in wholes[cost] if whole)) for cost in HARVEST_COSTS}
    sharing = any(arm.archive.sharers[1] > 1 for arm in summary.arms)
    rows = []
    for arm in summary.arms:
        fewest, most = arm.archive.sharers
        row = [mark_arm(arm.arm) + (f' {SHARED}' if arm.arm.shared else ''), str(arm.n)]
        for cost in reversed(HARVEST_COSTS):
            found = arm.archive.harvested[cost]
            spreads = (found.harvest, found.whole, *([found.shared] if sharing else []))
            row += [with_spread(spread, units[cost], arm.n) for spread in spreads]
        shared_by = str(most) if fewest == most else f'{fewest} to {most}'
        rows.append((*row, shared_by if sharing and most else MISSING))
    columns = ['arm', 'n']
    for cost, noun in (('multiply_adds', 'multiply-adds'), ('seconds', 'training')):
        name = units[cost].name
        columns += [f'harvest, {name}', f'{noun} with it, {name}', *([f'with its share, {name}'] if sharing else [])]
    title = "Harvest counted: the whole training, and what it took to harvest the teachers' outputs"
    return Table(title, *filled((*columns, 'runs that share it'), rows), labels=2, section='archive')


def _count(spread: Spread, of: int) -> str:
    """Whole numbers, which the runs of an arm mostly agree on: then without a deviation."""
    if spread.sd == 0:
        spread = replace(spread, sd=None)
    return with_spread(spread, Unit('', digits=0 if spread.mean.is_integer() else 1), of)
