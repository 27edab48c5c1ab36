"""What the whole training of each arm cost, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from composer_kd.report.load import Run
from composer_kd.report.render.text import PERCENT, Table, Unit, unit_for, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import PARTS, Spread, costs_at, last, series
from composer_kd.report.summary import ArmSummary

__all__ = ['CostsReport']

_PARTS = dict(zip(PARTS, ('teachers', 'attacks', 'other algorithms'), strict=True))
_AT_THE_END = ('agreement', 'teacher_accuracy', 'images_per_second')


@SECTIONS.register('costs')
class CostsReport(ReportSection):
    """Seconds and multiply-adds of whole trainings, and how students stood to their teachers in the last epoch."""

    order = 80
    method = (
        'Training time and multiply-adds include teachers, attacks and what other algorithms compute. They do not '
        'include the training of the teachers, which are earlier versions that exist already, nor a recording of their '
        'outputs, unless a table says so. Outputs that a student computed to fill an archive belong to its training.'
    )

    def read(self) -> dict[str, dict[str, Spread | None]]:
        return {arm.name: _totals(arm.counted) for arm in self.summary.arms}

    def tables(self) -> Iterable[Table]:
        time = self._unit('seconds', 'seconds', 'seconds_eval')
        adds = self._unit('multiply_adds', 'multiply_adds')

        def cell(key: str, unit: Unit) -> Callable[[ArmSummary], str]:
            return lambda arm: with_spread(self.values[arm.name][key], unit, arm.n)

        def parts(cost: str, unit: Unit) -> dict[str, Callable[[ArmSummary], str]]:
            """A column for each part that some arm has."""
            keys = {f'{name} in it, {unit.name}': f'{cost}_{part}' for part, name in _PARTS.items()}
            return {head: cell(key, unit) for head, key in keys.items() if any(one.mean for one in self._spreads(key))}

        columns: dict[str, Callable[[ArmSummary], str]] = {
            'arm': lambda arm: arm.marked(seconds=True),
            'epochs': _lengths,
            f'training, {time.name}': cell('seconds', time),
            **parts('seconds', time),
            f'evaluation, {time.name}': cell('seconds_eval', time),
            f'multiply-adds, {adds.name}': cell('multiply_adds', adds),
            **parts('multiply_adds', adds),
            'images/s': cell('images_per_second', Unit('images/s', digits=0)),
            'agreement, %': cell('agreement', PERCENT),
            'teacher accuracy, %': cell('teacher_accuracy', PERCENT),
        }
        title = 'The whole training: cost, and agreement with the teachers in the last epoch'
        yield Table.of(title, zip(self.summary.arms, strict=True), columns).filled()

    def _spreads(self, *keys: str) -> list[Spread]:
        return [spread for totals in self.values.values() for key in keys if (spread := totals[key])]

    def _unit(self, cost: str, *keys: str) -> Unit:
        return unit_for(cost, self._spreads(*keys))


def _totals(runs: Sequence[Run]) -> dict[str, Spread | None]:
    """What the whole of a run cost, and how it stood to its teachers in the end: means over the runs."""
    spent = [costs_at(run.epochs) for run in runs]
    totals = {name: Spread.of(last(one[name]) for one in spent) for name in spent[0]}
    return totals | {key: Spread.of(last(series(run.epochs, key)) for run in runs) for key in _AT_THE_END}


def _lengths(arm: ArmSummary) -> str:
    lengths = sorted({run.last_epoch for run in arm.counted})
    return str(lengths[0]) if len(lengths) == 1 else f'{lengths[0]} to {lengths[-1]}'
