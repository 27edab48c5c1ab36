"""What it takes a retrained model to take over from the one that it replaces: ageing, recovery, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer_kd.report.collect import Arm, Run
from composer_kd.report.drift_measures import Recovery, forgetting, recovery
from composer_kd.report.measures import Spread, series
from composer_kd.report.robustness import Measured, measured_of

__all__ = ['Takeover', 'takeovers']


@dataclass(frozen=True)
class Takeover:
    """Means over the runs of an arm that replace another run; accuracies are of test data.

    Attributes:
        before: The replaced models on their own data.
        aged: The same models on the data of those that replace them; ``None`` where that was not measured.
        after: The models that replace them, on those data.
        recovered: In how many runs an epoch was as good as the replaced model had been.
        of: How many runs replace one.
        epochs: Until then, over those that came there.
        seconds: Of training, likewise.
        multiply_adds: Of training, teachers inside, likewise.
        forgotten: What of the earlier models' accuracies on their own data is gone, averaged over them; below 0 where
            it has grown.
    """

    before: Spread
    aged: Spread | None
    after: Spread
    recovered: int
    of: int
    epochs: Spread | None
    seconds: Spread | None
    multiply_adds: Spread | None
    forgotten: Spread | None


@dataclass(frozen=True)
class _Pair:
    before: float
    aged: float | None
    after: float
    recovery: Recovery | None
    forgotten: float | None


def takeovers(arms: Sequence[Arm]) -> dict[str, Takeover]:
    """Of the arms whose runs say what they replace, by name.

    Args:
        arms: Those of the report; replaced runs are looked for among their runs.
    """
    runs = {run.path.resolve(): run for arm in arms for run in arm.runs}
    measured: dict[Path, Measured | None] = {}

    def of(run: Run) -> Measured | None:
        if run.path not in measured:
            measured[run.path] = measured_of(run)
        return measured[run.path]

    found = {}
    for arm in arms:
        pairs = [pair for run in arm.counted if (pair := _pair(run, runs, of)) is not None]
        if pairs:
            recovered = [pair.recovery for pair in pairs if pair.recovery is not None]
            found[arm.name] = Takeover(
                before=_known(Spread.of(pair.before for pair in pairs)),
                aged=Spread.of(pair.aged for pair in pairs),
                after=_known(Spread.of(pair.after for pair in pairs)),
                recovered=len(recovered),
                of=len(pairs),
                epochs=Spread.of(one.epochs for one in recovered),
                seconds=Spread.of(one.seconds for one in recovered),
                multiply_adds=Spread.of(one.multiply_adds for one in recovered),
                forgotten=Spread.of(pair.forgotten for pair in pairs),
            )
    return found


def _pair(run: Run, runs: dict[Path, Run], of: Callable[[Run], Measured | None]) -> _Pair | None:
    earlier = list(_replaced(run, runs))
    after = _last(run)
    before = _last(earlier[0]) if earlier and earlier[0].finished else None
    if before is None or after is None or not run.finished:
        return None
    own = of(run)
    then, now = [], []
    for one in earlier:
        theirs, accuracy = of(one), _last(one)
        present = None if own is None or theirs is None else own.on(theirs.fingerprint)
        if theirs is None or own is None or theirs.fingerprint == own.fingerprint:
            continue  # Of the same test data nothing can be forgotten.
        if accuracy is None or present is None:
            continue
        then.append(accuracy)
        now.append(present)
    replaced = of(earlier[0])
    aged = None if own is None or replaced is None else replaced.on(own.fingerprint)
    return _Pair(before, aged, after, recovery(run.epochs, before), forgetting(then, now))


def _replaced(run: Run, runs: dict[Path, Run]) -> Iterator[Run]:
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


def _last(run: Run) -> float | None:
    values = series(run.epochs, 'test_accuracy')
    return values[max(values)] if values else None


def _known(spread: Spread | None) -> Spread:
    assert spread is not None
    return spread
