"""What runs left for later ones, what those saved by looking it up, and costs with the recording counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from composer_kd.report.recorded import RECORDING_COSTS, RecordedTable, read_tables
from composer_kd.report.render.text import MEGABYTES, MISSING, PERCENT, Table, Unit, and_join, unit_for, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import Spread

__all__ = ['ArchiveReport', 'StorageStats']


@dataclass(frozen=True)
class StorageStats:
    """One kind of tables in the archives of an arm: how many, their bytes, and what making them took."""

    what: str
    tables: Spread
    bytes: Spread
    each: Spread
    seconds: Spread | None
    multiply_adds: Spread | None


@SECTIONS.register('archive')
class ArchiveReport(ReportSection):
    """What was recorded, what looking it up saved, and whole costs; nothing where nothing was recorded."""

    order = 90
    heading = 'The archive'
    lead = (
        'What runs left for later ones, and what those saved by looking it up. Losses, and logits “from training”, are '
        'by-products; recording afterwards takes a forward pass for each output. “Not computed” is the share of the '
        'outputs that teachers gave, each weighted by its cost; what a run computed to fill an archive is no saving of '
        'that run.'
    )

    def read(self) -> dict[str, Any]:
        return {
            arm.name: {
                'recorded': list(_stored([read_tables(run) for run in arm.counted])),
                'looked_up': arm.lookups.looked_up,
                'recording': arm.lookups.costs,
                'shared_by_runs': arm.lookups.sharers,
                'recording_known': not arm.lookups.unknown,
            }
            for arm in self.summary.arms
        }

    def tables(self) -> Iterable[Table]:
        yield self._recorded()
        yield self._saved()
        if any(arm.lookups.took_recording for arm in self.summary.arms):
            yield self._recording_counted()

    def caveats(self) -> Iterable[str]:
        for arm in self.summary.arms:
            costs = [
                (unit_for(cost, [found.recording]).quantity(found.recording.mean), noun)
                for cost, noun in (('multiply_adds', ' multiply-adds'), ('seconds', ''))
                if (found := arm.lookups.costs[cost]).recording and found.recording.mean > 0
            ]
            if costs:
                took = ' and '.join(quantity + noun for quantity, noun in costs)
                yield (
                    f'{arm.name} looked up outputs that were recorded before, which took {took}: its costs do not '
                    'include that, except in the table "Recording counted".'
                )
        unknown = [arm.name for arm in self.summary.arms if arm.lookups.unknown]
        if unknown:
            yield (
                f'{and_join(unknown)} looked up outputs in archives of runs that are not in this report: what it took '
                'to record them is not known, and not counted.'
            )
        for arm in self.summary.arms:
            filled = arm.lookups.looked_up and arm.lookups.looked_up.filled_elsewhere
            if filled and filled.mean > 0:
                took = unit_for('multiply_adds', [filled]).quantity(filled.mean)
                yield (
                    f'{arm.name} looked up outputs that other runs computed to fill an archive, for {took} '
                    'multiply-adds: these count as training of those runs.'
                )

    def _recorded(self) -> Table:
        kinds = [(arm, stored) for arm in self.summary.arms for stored in self.values[arm.name]['recorded']]
        time = unit_for('seconds', (stored.seconds for _, stored in kinds))
        adds = unit_for('multiply_adds', (stored.multiply_adds for _, stored in kinds))
        return Table.of(
            'The archive: what was recorded, and what that took (filling is part of the training of the students)',
            kinds,
            {
                'arm': lambda arm, found: arm.marked(),
                'recorded': lambda arm, found: found.what,
                'tables': lambda arm, found: _count(found.tables, arm.n),
                'a table, MB': lambda arm, found: with_spread(found.each, MEGABYTES),
                'together, MB': lambda arm, found: with_spread(found.bytes, MEGABYTES),
                f'took, {time.name}': lambda arm, found: with_spread(found.seconds, time),
                f'multiply-adds, {adds.name}'.rstrip(', '): lambda arm, found: with_spread(found.multiply_adds, adds),
            },
            labels=2,
        ).filled()

    def _saved(self) -> Table:
        arms = [(arm, arm.lookups.looked_up) for arm in self.summary.arms if arm.lookups.looked_up]
        outputs = unit_for('outputs', (found.outputs for _, found in arms))
        adds = unit_for('multiply_adds', (found.saved for _, found in arms))
        looked_up = 'looked up' if outputs.name == 'outputs' else f'looked up, {outputs.name}'
        return Table.of(
            "The archive: teachers' outputs looked up, and what that saved of the training with live teachers",
            arms,
            {
                'arm': lambda arm, found: arm.marked(),
                'n': lambda arm, found: str(arm.n),
                looked_up: lambda arm, found: with_spread(found.outputs, outputs, arm.n),
                'not computed, %': lambda arm, found: with_spread(found.share, PERCENT, arm.n),
                f'multiply-adds saved, {adds.name}': lambda arm, found: with_spread(found.saved, adds, arm.n),
                'less than live, %': lambda arm, found: with_spread(found.less, PERCENT, arm.n),
            },
            labels=2,
        ).filled()

    def _recording_counted(self) -> Table:
        """All arms, so that they can be compared; those without a recording cost what they cost."""
        arms = self.summary.arms
        wholes = {cost: [arm.lookups.costs[cost].whole for arm in arms] for cost in RECORDING_COSTS}
        units = {cost: unit_for(cost, wholes[cost]) for cost in RECORDING_COSTS}
        sharing = any(arm.lookups.sharers[1] > 1 for arm in arms)
        rows = []
        for arm in arms:
            fewest, most = arm.lookups.sharers
            row = [arm.marked(seconds=True), str(arm.n)]
            for cost in reversed(RECORDING_COSTS):
                found = arm.lookups.costs[cost]
                spreads = (found.recording, found.whole, *([found.shared] if sharing else []))
                row += [with_spread(spread, units[cost], arm.n) for spread in spreads]
            shared_by = str(most) if fewest == most else f'{fewest} to {most}'
            rows.append((*row, shared_by if sharing and most else MISSING))
        columns = ['arm', 'n']
        for cost, noun in (('multiply_adds', 'multiply-adds'), ('seconds', 'training')):
            unit, share = units[cost].name, [f'with its share, {units[cost].name}'] if sharing else []
            columns += [f'recording, {unit}', f'{noun} with it, {unit}', *share]
        title = "Recording counted: the whole training, and what recording the teachers' outputs took"
        return Table(title, (*columns, 'runs that share it'), tuple(rows), labels=2).filled()


def _stored(archives: Sequence[Sequence[RecordedTable]]) -> Iterable[StorageStats]:
    """Kind by kind; means over the archives that have such tables."""
    for what in dict.fromkeys(table.what for archive in archives for table in archive):
        kinds = [[table for table in archive if table.what == what] for archive in archives]
        having = [tables for tables in kinds if tables]
        sizes = [[table.bytes for table in tables] for tables in having]
        yield StorageStats(
            what,
            tables=Spread.over(map(len, sizes)),
            bytes=Spread.over(map(sum, sizes)),
            each=Spread.over(map(fmean, sizes)),
            seconds=Spread.of(_total(one.seconds for one in tables) for tables in having),
            multiply_adds=Spread.of(_total(one.multiply_adds for one in tables) for tables in having),
        )


def _total(amounts: Iterable[float | None]) -> float | None:
    values = list(amounts)
    return None if None in values else sum(value for value in values if value is not None)


def _count(spread: Spread, of: int) -> str:
    """Whole numbers, which the runs of an arm mostly agree on: then without a deviation."""
    if spread.sd == 0:
        spread = replace(spread, sd=None)
    return with_spread(spread, Unit('', digits=0 if spread.mean.is_integer() else 1), of)
