"""The tables of a report, laid out once for terminal, Markdown and page."""

from __future__ import annotations

from composer_kd.report.archive_tables import archive_tables
from composer_kd.report.attack_tables import attack_tables
from composer_kd.report.caveats import PARTIAL, SHARED, UNFINISHED, mark_arm, progress
from composer_kd.report.measures import COSTS, Cost, Measure, Spread, best, first_epoch_at, series
from composer_kd.report.model_tables import model_tables
from composer_kd.report.robustness_tables import robustness_tables
from composer_kd.report.summary import ArmSummary, Summary
from composer_kd.report.table import Table, filled
from composer_kd.report.takeover_tables import takeover_tables
from composer_kd.report.wording import MISSING, NATS, PERCENT, Unit, percent, times, unit_for, with_spread

__all__ = ['Table', 'tables']

_THROUGHPUT = Unit('images/s', digits=0)


def tables(summary: Summary) -> list[Table]:
    """For each measure: accuracies, costs of reaching thresholds, speed-ups; then of models, and what they cost."""
    found: list[Table] = []
    for measure in summary.measures:
        found.append(_accuracies(summary, measure))
        if not summary.thresholds[measure.name]:
            continue
        costs = COSTS if measure is summary.primary else COSTS[:1]
        found.extend(_to_reach(summary, measure, cost) for cost in costs if _known(summary, measure, cost))
        speed_ups = _speed_ups(summary, measure)
        if speed_ups.rows:
            found.append(speed_ups)
    found.extend(model_tables(summary))
    fidelity = _fidelity(summary)
    if fidelity.rows:
        found.append(fidelity)
    found.extend(robustness_tables(summary))
    found.extend(attack_tables(summary))
    found.extend(takeover_tables(summary))
    found.append(_whole_cost(summary))
    found.extend(archive_tables(summary))
    found.append(_runs(summary))
    return found


def _accuracies(summary: Summary, measure: Measure) -> Table:
    # A column of a fixed epoch stands where the run with the shortest way stands; "last" is each run's own last epoch.
    rows = []
    for arm in summary.arms:
        found = arm.accuracy[measure.name]
        cells = [with_spread(found.at[epoch], PERCENT, arm.n) for epoch in summary.epochs]
        cells += [with_spread(found.last, PERCENT, arm.n), with_spread(found.best, PERCENT, arm.n)]
        rows.append((mark_arm(arm.arm), str(arm.n), *cells, _at_epoch(found.best_epoch)))
    heads = [f'epoch {epoch}' for epoch in summary.epochs]
    return Table(
        f'{_capital(measure.title)}, %',
        ('arm', 'n', *heads, 'last epoch', 'best epoch', 'best at'),
        tuple(rows),
        labels=2,
        section=measure.name,
    )


def _to_reach(summary: Summary, measure: Measure, cost: Cost) -> Table:
    spreads = [level.cost(cost.name) for arm in summary.arms for level in arm.reach[measure.name]]
    unit = unit_for(cost.name, (spread.mean for spread in spreads if spread))
    rows = []
    for arm in summary.arms:
        name = mark_arm(arm.arm) + (f' {SHARED}' if cost.name == 'seconds' and arm.arm.shared else '')
        cells = []
        for level in arm.reach[measure.name]:
            spread = level.cost(cost.name)
            if level.reached == 0:
                cells.append(f'not reached (0/{level.of})' if level.of > 1 else 'not reached')
            else:
                cells.append(with_spread(spread, unit, level.of))
        rows.append((name, str(arm.n), *cells))
    heads = map(percent, summary.thresholds[measure.name])
    what = {
        'epochs': 'Epochs',
        'seconds': f'Training time, teachers inside ({unit.name}),',
        'multiply_adds': f'Multiply-adds, teachers inside ({unit.name}),',
    }[cost.name]
    return Table(f'{what} to reach {measure.title}', ('arm', 'n', *heads), tuple(rows), labels=2, section=measure.name)


def _speed_ups(summary: Summary, measure: Measure) -> Table:
    rows = []
    levels = range(len(summary.thresholds[measure.name]))
    for arm in summary.others:
        for cost in COSTS:
            found = [summary.compare(arm, measure.name, index, cost.name) for index in levels]
            if not any(found):
                continue
            mark = f' {SHARED}' if any(one.shared for one in found if one) else ''
            cells = [times(one.ratio) + ('' if one.complete else f' {PARTIAL}') if one else MISSING for one in found]
            rows.append((mark_arm(arm.arm), cost.title + mark, *cells))
    heads = map(percent, summary.thresholds[measure.name])
    title = f'Speed-up over {summary.baseline.name} to the same {measure.title}'
    return Table(title, ('arm', 'in', *heads), tuple(rows), labels=2, section=measure.name)


def _fidelity(summary: Summary) -> Table:
    # A row a teacher: with a column each, a lineage of five would not fit on a page.
    rows = []
    for arm in summary.arms:
        calibration = with_spread(arm.fidelity.calibration_error, PERCENT, arm.n)
        for name, to in arm.fidelity.teachers.items() or [(MISSING, None)]:
            agreement, kl = (to.agreement, to.kl) if to else (None, None)
            cells = (calibration, with_spread(agreement, PERCENT, arm.n), with_spread(kl, NATS, arm.n))
            if any(cell != MISSING for cell in cells):
                rows.append((mark_arm(arm.arm), name, str(arm.n), *cells))
    columns = ('arm', 'teacher', 'n', 'calibration error, %', 'agreement, %', 'KL to the teacher')
    return Table('Calibration and fidelity on the test data', *filled(columns, rows), labels=2, section='fidelity')


def _whole_cost(summary: Summary) -> Table:
    def unit(key: str, *keys: str) -> Unit:
        return unit_for(
            key, (spread.mean for arm in summary.arms for one in (key, *keys) if (spread := arm.totals[one]))
        )

    time, adds = unit('seconds', 'seconds_eval'), unit('multiply_adds')
    attacked = any(arm.arm.adversarial for arm in summary.arms)
    rows = []
    for arm in summary.arms:
        total = arm.totals if attacked else {**arm.totals, 'seconds_attack': None, 'multiply_adds_attack': None}
        rows.append(
            (
                mark_arm(arm.arm) + (f' {SHARED}' if arm.arm.shared else ''),
                _lengths(arm),
                with_spread(total['seconds'], time, arm.n),
                with_spread(total['seconds_teacher'], time, arm.n),
                with_spread(total['seconds_attack'], time, arm.n),
                with_spread(total['seconds_eval'], time, arm.n),
                with_spread(total['multiply_adds'], adds, arm.n),
                with_spread(total['multiply_adds_teacher'], adds, arm.n),
                with_spread(total['multiply_adds_attack'], adds, arm.n),
                with_spread(total['images_per_second'], _THROUGHPUT, arm.n),
                with_spread(total['agreement'], PERCENT, arm.n),
                with_spread(total['teacher_accuracy'], PERCENT, arm.n),
            )
        )
    columns = (
        'arm',
        'epochs',
        f'training, {time.name}',
        f'teachers in it, {time.name}',
        f'attacks in it, {time.name}',
        f'evaluation, {time.name}',
        f'multiply-adds, {adds.name}',
        f'teachers in it, {adds.name}',
        f'attacks in it, {adds.name}',
        'images/s',
        'agreement, %',
        'teacher accuracy, %',
    )
    return Table(
        'The whole training: cost, and agreement with the teachers in the last epoch',
        *filled(columns, rows),
        section='cost',
    )


def _runs(summary: Summary) -> Table:
    measure = summary.primary
    levels = summary.thresholds[measure.name]
    rows = []
    names = summary.labels
    for run in summary.runs:
        values = series(run.epochs, measure.key)
        peak = best(values)
        rows.append(
            (
                names[run.path] + ('' if run.finished else f' {UNFINISHED}') + (f' {SHARED}' if run.shared else ''),
                run.arm,
                MISSING if run.seed is None else str(run.seed),
                progress(run),
                PERCENT.text(values[max(values)]) if values else MISSING,
                f'{PERCENT.text(peak[1])} at {peak[0]}' if peak else MISSING,
                *(_first(first_epoch_at(values, level)) for level in levels),
            )
        )
    heads = [f'to {percent(level)}' for level in levels]
    columns = ('run', 'arm', 'seed', 'length', 'last, %', 'best, %', *heads)
    title = f'The runs one by one: {measure.title}, and epochs to reach it'
    return Table(title, columns, tuple(rows), labels=2, section='runs')


def _known(summary: Summary, measure: Measure, cost: Cost) -> bool:
    return any(level.cost(cost.name) for arm in summary.arms for level in arm.reach[measure.name])


def _at_epoch(spread: Spread | None) -> str:
    return with_spread(spread, unit_for('epochs', ()))


def _lengths(arm: ArmSummary) -> str:
    lengths = sorted({run.last_epoch for run in arm.arm.counted})
    return str(lengths[0]) if len(lengths) == 1 else f'{lengths[0]} to {lengths[-1]}'


def _first(epoch: int | None) -> str:
    return MISSING if epoch is None else str(epoch)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
