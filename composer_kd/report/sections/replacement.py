"""What it takes a retrained model to replace an earlier one: what drift did to that, recovery, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from composer_kd.report.load import Arm, Run
from composer_kd.report.measured import MeasuredDrifts, read_drifts
from composer_kd.report.render.text import PERCENT, Table, Unit, unit_for, with_spread
from composer_kd.report.sections import SECTIONS, ReportSection
from composer_kd.report.stats import COSTS, Spread, first_costs, last, series
from composer_kd.report.summary import ArmSummary

__all__ = ['Replacement', 'ReplacementReport', 'forgetting', 'replacements']


def forgetting(then: Sequence[float], now: Sequence[float]) -> float | None:
    """How much of the accuracy on earlier steps' test data is gone, averaged over them; below 0 where it has grown.

    Args:
        then: For each earlier step, the accuracy on its data of the model that was current then.
        now: The accuracies of the present model on the same data.
    """
    return fmean(before - after for before, after in zip(then, now, strict=True)) if then else None


@dataclass(frozen=True)
class Replacement:
    """Means over the runs of an arm that replace another run; accuracies are of test data."""

    before: Spread  # the replaced models on their own data
    aged: Spread | None  # the same models on the data of those that replace them; ``None`` where that was not measured
    after: Spread  # the models that replace them, on those data
    recovered: int  # in how many runs an epoch was as good as the replaced model had been
    of: int  # how many runs replace one
    epochs: Spread | None  # until then, over those that came there
    seconds: Spread | None  # of training, likewise
    multiply_adds: Spread | None  # of training with teachers, likewise
    # What is gone of the earlier models' accuracies on their own data, averaged over them; below 0 where it has grown
    forgotten: Spread | None


@SECTIONS.register('replacement')
class ReplacementReport(ReportSection):
    """A row for each arm that replaces another run."""

    order = 70
    method = (
        'An arm replaces the run that `replaces` names in its settings. It has recovered in the first epoch whose '
        'accuracy on its own test data is that of the replaced model on the data from before. Forgotten is the '
        'accuracy of each earlier model on its own test data minus that of the new model on the same, averaged over '
        'the models whose data are others; below 0 the new model is better there too. The cost of recovering includes '
        'live teachers, not the recording of outputs that were looked up.'
    )

    def read(self) -> dict[str, Replacement]:
        return replacements(self.summary.arms)

    def tables(self) -> Iterable[Table]:
        found: dict[str, Replacement] = self.values
        adds = unit_for('multiply_adds', (one.multiply_adds for one in found.values()))
        time = unit_for('seconds', (one.seconds for one in found.values()))

        def cost(name: str, unit: Unit) -> Callable[..., str]:
            def cell(arm: ArmSummary, own: Replacement) -> str:
                missed = f'not recovered (0/{own.of})' if own.of > 1 else 'not recovered'
                return with_spread(getattr(own, name), unit, own.of) if own.recovered else missed

            return cell

        columns: dict[str, Callable[..., str]] = {
            'arm': lambda arm, own: arm.marked(seconds=own.seconds is not None),
            'n': lambda arm, own: str(own.of),
            'replaced model, its data': lambda arm, own: with_spread(own.before, PERCENT),
            'replaced model, new data': lambda arm, own: with_spread(own.aged, PERCENT, own.of),
            'new model, new data': lambda arm, own: with_spread(own.after, PERCENT),
            'epochs to recover': cost('epochs', unit_for('epochs', ())),
            f'{time.name} to recover': cost('seconds', time),
            f'multiply-adds to recover, {adds.name}': cost('multiply_adds', adds),
            'forgotten, points': lambda arm, own: with_spread(own.forgotten, PERCENT, own.of),
        }
        rows = [(arm, found[arm.name]) for arm in self.summary.arms if arm.name in found]
        yield Table.of('Replacement: test accuracy, %', rows, columns, labels=2).filled()


def replacements(arms: Sequence[Arm]) -> dict[str, Replacement]:
    """Of the arms whose runs say what they replace, by name.

    Args:
        arms: Those of the report; replaced runs are looked for among their runs.
    """
    runs = {run.path.resolve(): run for arm in arms for run in arm.runs}
    measured: dict[Path, MeasuredDrifts | None] = {}

    def of(run: Run) -> MeasuredDrifts | None:
        if run.path not in measured:
            measured[run.path] = read_drifts(run)
        return measured[run.path]

    found = {}
    for arm in arms:
        pairs = [pair for run in arm.counted if (pair := _pair(run, runs, of)) is not None]
        if pairs:
            recovered = [pair.recovery for pair in pairs if pair.recovery is not None]
            found[arm.name] = Replacement(
                before=Spread.over(pair.before for pair in pairs),
                aged=Spread.of(pair.aged for pair in pairs),
                after=Spread.over(pair.after for pair in pairs),
                recovered=len(recovered),
                of=len(pairs),
                **{cost: Spread.of(one[cost] for one in recovered) for cost in COSTS},
                forgotten=Spread.of(pair.forgotten for pair in pairs),
            )
    return found


@dataclass(frozen=True)
class _Pair:
    before: float
    aged: float | None
    after: float
    recovery: dict[str, float | None] | None
    forgotten: float | None


def _pair(run: Run, runs: Mapping[Path, Run], of: Callable[[Run], MeasuredDrifts | None]) -> _Pair | None:
    earlier = list(_replaced(run, runs))
    after = _end(run)
    before = _end(earlier[0]) if earlier and earlier[0].finished else None
    if before is None or after is None or not run.finished:
        return None
    own = of(run)
    then, now = [], []
    for one in earlier:
        theirs, accuracy = of(one), _end(one)
        if own is None or theirs is None or theirs.fingerprint == own.fingerprint:
            continue  # Of the same test data nothing can be forgotten.
        present = own.on(theirs.fingerprint)
        if accuracy is not None and present is not None:
            then.append(accuracy)
            now.append(present)
    replaced = of(earlier[0])
    aged = None if own is None or replaced is None else replaced.on(own.fingerprint)
    return _Pair(before, aged, after, first_costs(run.epochs, 'test_accuracy', before), forgetting(then, now))


def _replaced(run: Run, runs: Mapping[Path, Run]) -> Iterator[Run]:
    """The run that this one replaces, the one that that one replaced, and so on."""
    seen = {run.path.resolve()}
    while (called := run.config.get('replaces')) is not None:
        # Where it lay when this one was trained; else beside it, wherever the folder lies now.
        places = [Path(str(called)).resolve(), run.path.resolve().parent / Path(str(called)).name]
        place = next((one for one in places if one in runs and one not in seen), None)
        if place is None:
            return
        seen.add(place)
        run = runs[place]
        yield run


def _end(run: Run) -> float | None:
    return last(series(run.epochs, 'test_accuracy'))
