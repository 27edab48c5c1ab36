"""Accuracies by epoch, what it took each arm to reach one, and the runs one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from composer_kd.report.load import Run
from composer_kd.report.render.charts import HEIGHT, Bar, Drawn, bar_chart, bars_height, line_chart
from composer_kd.report.render.figures import Figure, style_of
from composer_kd.report.render.text import (
    MISSING,
    PARTIAL,
    PERCENT,
    SHARED,
    UNFINISHED,
    Table,
    capital,
    mean_text,
    percent,
    times,
    unit_for,
    with_spread,
)
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import (
    COSTS,
    Measure,
    Reach,
    Spread,
    best,
    common_epochs,
    costs_at,
    curve,
    first_epoch_at,
    label_loss,
    last,
    series,
)
from composer_kd.report.summary import Summary

__all__ = ['AccuracyReport', 'OtherAccuraciesReport', 'RunsReport']

_EPOCHS = unit_for('epochs', ())


@SECTIONS.register('accuracy')
class AccuracyReport(ReportSection):
    """The accuracy that the headline is about, and pictures of all."""

    order = 10
    method = (
        'An accuracy is reached in the first epoch at or above it; nothing is interpolated. Means and sample standard '
        'deviations (n − 1) are over the n seeds of an arm. Running training accuracy is counted during the epoch, on '
        'augmented images, while the weights change; clean training accuracy is measured after it, in evaluation mode, '
        'without augmentation. The best epoch is chosen with hindsight: compare last epochs.'
    )

    def tables(self) -> Iterable[Table]:
        return _tables(self.summary, self.summary.primary)

    def figures(self) -> Iterable[Figure]:
        # Validation mostly repeats the picture of test: it is drawn where there is no test, and tabulated always.
        for measure in self.summary.measures:
            if measure.name != 'val' or measure is self.summary.primary:
                yield from self._curves(measure)
                yield from self._bars(measure)
        for cost in ('seconds', 'multiply_adds'):
            yield from self._against(cost)
        lines = [(drawn, curve([label_loss(run.epochs) for run in runs])) for drawn, runs in self._arms()]
        note = 'The part of the training loss that compares with the labels, without distillation terms.'
        yield from line_chart('label_loss', 'Training loss, labels only', 'epoch', lines, as_percent=False, note=note)

    def caveats(self) -> Iterable[str]:
        levels = [level for arm in self.summary.arms for group in arm.reach.values() for level in group]
        if any(0 < level.reached < level.of for level in levels):
            yield (
                f'{PARTIAL} Not every seed reached the accuracy: the mean is over the k of n seeds that did (k/n). '
                'It flatters the arm, and its speed-up is uncertain.'
            )
        # A curriculum leaves samples out: then an epoch is not an epoch.
        base = self.summary.baseline
        theirs = [series(run.epochs, 'samples') for run in base.counted]
        for arm in self.summary.others:
            own = [series(run.epochs, 'samples') for run in arm.counted]
            epochs = common_epochs([*own, *theirs])
            sizes = [_mean_over(runs, epochs) for runs in (own, theirs)] if epochs else [0, 0]
            if sizes[0] != sizes[1]:
                yield (
                    f'An epoch of {arm.name} has {sizes[0]:,} samples on average, one of {base.name} {sizes[1]:,}: '
                    'compare time and multiply-adds, not epochs.'
                )

    def _arms(self) -> Iterable[tuple[Drawn, Sequence[Run]]]:
        for place, arm in enumerate(self.summary.arms):
            yield Drawn(arm.marked(), style_of(place)), arm.counted

    def _curves(self, measure: Measure) -> list[Figure]:
        lines = [(drawn, curve([series(run.epochs, measure.key) for run in runs])) for drawn, runs in self._arms()]
        # As high as the bars that stand beside it on a wide page.
        arms = sum(arm.accuracy[measure.name].last is not None for arm in self.summary.arms)
        height = min(max(HEIGHT, bars_height(len(self.summary.thresholds[measure.name]), arms)), 1.5 * HEIGHT)
        return line_chart(f'{measure.name}_accuracy', capital(measure.title), 'epoch', lines, height=height)

    def _bars(self, measure: Measure) -> list[Figure]:
        """Epochs to reach each threshold, a bar for an arm; what was not reached is written, not drawn."""
        arms = zip(self.summary.arms, self._arms(), strict=True)
        bars = [
            (drawn, [_bar(level) for level in arm.reach[measure.name]])
            for arm, (drawn, _) in arms
            if arm.accuracy[measure.name].last
        ]
        caption = 'First epoch at or above the accuracy, mean ± standard deviation over the seeds; shorter is cheaper.'
        if any(bar.hollow and bar.length for _, one in bars for bar in one):
            caption += ' Hollow: only k of n seeds (k/n) reached it.'
        levels = list(map(percent, self.summary.thresholds[measure.name]))
        name, title = f'epochs_to_{measure.name}_accuracy', f'Epochs to reach {measure.title}'
        return bar_chart(name, title, caption, 'epochs', levels, bars)

    def _against(self, cost: str) -> list[Figure]:
        measure = self.summary.primary
        lines = []
        for drawn, runs in self._arms():
            spent = [costs_at(run.epochs)[cost] for run in runs]
            lines.append((drawn, curve([series(run.epochs, measure.key) for run in runs], spent)))
        unit = unit_for(cost, (line.x[-1] for _, line in lines if line))
        scaled = [(drawn, line and replace(line, x=tuple(x / unit.size for x in line.x))) for drawn, line in lines]
        note = 'Teachers included.'
        if cost == 'seconds':
            note = 'Teachers included, evaluation not; the mean time of the seeds.'
            if any(arm.shared for arm in self.summary.arms):
                note += f' {SHARED} Some runs shared the machine: their seconds are not their own.'
        name, title = f'{measure.name}_against_{cost}', f'{capital(measure.title)} against {COSTS[cost]}'
        return line_chart(name, title, f'{COSTS[cost]}, {unit.name}', scaled, note=note)


@SECTIONS.register('other_accuracies')
class OtherAccuraciesReport(ReportSection):
    """The tables of the accuracies that the headline is not about."""

    order = 100
    heading = 'Other accuracies'
    lead = 'Validation and training data, where they were measured.'

    def tables(self) -> Iterable[Table]:
        for measure in self.summary.measures:
            if measure is not self.summary.primary:
                yield from _tables(self.summary, measure)


@SECTIONS.register('runs')
class RunsReport(ReportSection):
    """The runs one by one."""

    order = 200
    heading = 'The runs'
    lead = 'Each run, and the settings of each arm.'

    def read(self) -> list[dict[str, Any]]:
        facts = ('name', 'arm', 'seed', 'last_epoch', 'planned_epochs', 'finished', 'shared')
        return [
            {
                **{name: getattr(run, name) for name in facts},
                'lineage': run.lineage or None,
                'measures': {measure.name: self._measured(run, measure) for measure in self.summary.measures},
            }
            for run in self.summary.runs
        ]

    def tables(self) -> Iterable[Table]:
        measure, names = self.summary.primary, self.summary.labels
        columns: dict[str, Callable[[Run], str]] = {
            'run': lambda run: names[run.path] + f' {UNFINISHED}' * (not run.finished) + f' {SHARED}' * run.shared,
            'arm': lambda run: run.arm,
            'seed': lambda run: _or_missing(run.seed),
            'length': lambda run: run.progress,
            'last, %': lambda run: mean_text(Spread.of([last(series(run.epochs, measure.key))]), PERCENT),
            'best, %': lambda run: _peak(best(series(run.epochs, measure.key))),
        }
        for level in self.summary.thresholds[measure.name]:
            columns[f'to {percent(level)}'] = lambda run, level=level: _or_missing(
                first_epoch_at(series(run.epochs, measure.key), level)
            )
        title = f'The runs one by one: {measure.title}, and epochs to reach it'
        yield Table.of(title, zip(self.summary.runs, strict=True), columns, labels=2, brief=False)

    def _measured(self, run: Run, measure: Measure) -> dict[str, Any]:
        found, levels = series(run.epochs, measure.key), self.summary.thresholds[measure.name]
        peak = best(found)
        return {
            'last': last(found),
            'best': peak and {'epoch': peak[0], 'value': peak[1]},
            'epochs_to_reach': [{'threshold': one, 'epoch': first_epoch_at(found, one)} for one in levels],
        }


def _or_missing(value: int | None) -> str:
    return MISSING if value is None else str(value)


def _peak(peak: tuple[int, float] | None) -> str:
    return f'{PERCENT.text(peak[1])} at {peak[0]}' if peak else MISSING


def _tables(summary: Summary, measure: Measure) -> Iterable[Table]:
    """Accuracies, costs of reaching thresholds, speed-ups."""
    primary = measure is summary.primary
    yield _accuracies(summary, measure)
    for cost in COSTS if primary else ('epochs',):
        if any(level.cost(cost) for arm in summary.arms for level in arm.reach[measure.name]):
            yield _to_reach(summary, measure, cost)
    if summary.thresholds[measure.name]:
        yield _speed_ups(summary, measure)


def _accuracies(summary: Summary, measure: Measure) -> Table:
    # A column of a fixed epoch stands where the run with the shortest way stands; "last" is each run's own last epoch.
    rows = []
    for arm in summary.arms:
        found = arm.accuracy[measure.name]
        spreads = [*(found.at[epoch] for epoch in summary.epochs), found.last, found.best]
        cells = [with_spread(spread, PERCENT, arm.n) for spread in spreads]
        rows.append((arm.marked(), str(arm.n), *cells, with_spread(found.best_epoch, _EPOCHS)))
    columns = ('arm', 'n', *(f'epoch {epoch}' for epoch in summary.epochs), 'last epoch', 'best epoch', 'best at')
    return Table(f'{capital(measure.title)}, %', columns, tuple(rows), labels=2, brief=measure is summary.primary)


def _to_reach(summary: Summary, measure: Measure, cost: str) -> Table:
    spreads = [level.cost(cost) for arm in summary.arms for level in arm.reach[measure.name]]
    unit = unit_for(cost, spreads)
    rows = tuple(
        (
            arm.marked(seconds=cost == 'seconds'),
            str(arm.n),
            *(
                with_spread(level.cost(cost), unit, level.of) if level.reached else _not_reached(level)
                for level in arm.reach[measure.name]
            ),
        )
        for arm in summary.arms
    )
    columns = ('arm', 'n', *map(percent, summary.thresholds[measure.name]))
    what = 'Epochs' if cost == 'epochs' else f'{capital(COSTS[cost])}, teachers included ({unit.name}),'
    return Table(f'{what} to reach {measure.title}', columns, rows, labels=2, brief=measure is summary.primary)


def _speed_ups(summary: Summary, measure: Measure) -> Table:
    levels = summary.thresholds[measure.name]
    rows = []
    for arm in summary.others:
        for cost in COSTS:
            found = [summary.compare(arm, measure.name, index, cost) for index in range(len(levels))]
            if any(found):
                mark = f' {SHARED}' if any(one.shared for one in found if one) else ''
                cells = [times(one.ratio) + f' {PARTIAL}' * (not one.complete) if one else MISSING for one in found]
                rows.append((arm.marked(), COSTS[cost] + mark, *cells))
    title = f'Speed-up over {summary.baseline.name} to the same {measure.title}'
    return Table(title, ('arm', 'in', *map(percent, levels)), tuple(rows), labels=2, brief=measure is summary.primary)


def _not_reached(level: Reach) -> str:
    return f'not reached (0/{level.of})' if level.of > 1 else 'not reached'


def _bar(level: Reach) -> Bar:
    label = with_spread(level.epochs, _EPOCHS, level.of) if level.reached else 'not reached'
    return Bar(level.epochs.mean if level.epochs else 0.0, label, hollow=not level.complete)


def _mean_over(runs: Sequence[dict[int, float]], epochs: Sequence[int]) -> int:
    return round(sum(run[epoch] for run in runs for epoch in epochs) / (len(runs) * len(epochs)))
