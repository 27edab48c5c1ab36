"""What archives saved the runs that looked outputs up in them, and the harvest that it took to have them there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer_kd.report.collect import Arm, Run
from composer_kd.report.measures import Spread, costs_at, series
from composer_kd.report.recordings import Recordings, View, recordings, teachers

__all__ = ['HARVEST_COSTS', 'ArmArchive', 'Harvested', 'Harvests', 'Served', 'Stored', 'looked_up']

HARVEST_COSTS = ('seconds', 'multiply_adds')
_SOURCES = {'model': 'harvested', 'fill': 'filled by students', 'training': 'from training'}


@dataclass(frozen=True)
class Stored:
    """One kind of tables in the archives of an arm: how many, their bytes, and what making them took."""

    what: str
    tables: Spread
    bytes: Spread
    each: Spread
    seconds: Spread | None
    multiply_adds: Spread | None


@dataclass(frozen=True)
class Served:
    """What an arm looked up.

    Args:
        images: Outputs looked up, over all teachers.
        share: Of the multiply-adds of all outputs that the teachers gave, those that this run did not compute; with
            teachers of one size that is the share of outputs.
        saved: Those multiply-adds; what the run computed to fill an archive is taken off.
        less: The share that they are of the whole training with live teachers.
        filled_elsewhere: Multiply-adds of views that other runs computed to fill the archives, and this one looked up.
    """

    images: Spread | None
    share: Spread | None
    saved: Spread | None
    less: Spread | None
    filled_elsewhere: Spread | None


@dataclass(frozen=True)
class Harvested:
    """One cost of an arm with its teachers' harvest inside; spreads are ``None`` where the harvest is not known.

    Args:
        harvest: What it took to harvest the views that a run could see.
        share: The part of that which falls to a run if all that use a view share it.
        whole: The run's training and the harvest.
        shared: The run's training and its share.
    """

    harvest: Spread | None
    share: Spread | None
    whole: Spread | None
    shared: Spread | None


@dataclass(frozen=True)
class ArmArchive:
    """What is known of an arm's archives, and of those that it was taught from.

    Args:
        stored: What its runs recorded, kind by kind.
        served: What they looked up; ``None`` if nothing.
        harvested: Their costs with the teachers' harvest inside, by name.
        sharers: The fewest and the most runs that share a harvest with one of them; both 0 without a harvest.
        unknown: Whether one of them looked up in an archive that is not among the runs reported.
    """

    stored: tuple[Stored, ...]
    served: Served | None
    harvested: dict[str, Harvested]
    sharers: tuple[int, int]
    unknown: bool

    @property
    def took_harvest(self) -> bool:
        """Whether a harvest is known, and was not free."""
        return any(one.harvest is not None and one.harvest.mean > 0 for one in self.harvested.values())


class Harvests:
    """Who looked up which harvested view: its cost is charged whole to each, or shared by all.

    Args:
        runs: All that a report is about.
    """

    def __init__(self, runs: Sequence[Run]):
        self._by_path = {run.path.resolve(): run for run in runs}
        self._recordings = {path: recordings(run) for path, run in self._by_path.items()}
        self._users = Counter(key for run in runs for key, _ in self._views(run, 'model'))

    def of_arm(self, arm: Arm) -> ArmArchive:
        """Means over the runs of an arm that enter means."""
        runs = arm.counted
        sharers = [max((self._users[key] for key, _ in self._views(run, 'model')), default=0) for run in runs]
        return ArmArchive(
            stored=tuple(_stored([self._recordings[run.path.resolve()] for run in runs])),
            served=self._served(runs),
            harvested={cost: self._harvested(runs, cost) for cost in HARVEST_COSTS},
            sharers=(min(sharers), max(sharers)),
            unknown=any(self._unknown(run) for run in runs),
        )

    def _served(self, runs: Sequence[Run]) -> Served | None:
        if not any(map(looked_up, runs)):
            return None
        ledgers = [_Ledger.of(run) for run in runs]
        elsewhere = [
            None if (filled := self._sum(run, 'fill', 'multiply_adds')) is None else max(0.0, filled - one.filled)
            for run, one in zip(runs, ledgers, strict=True)
        ]
        return Served(
            images=Spread.of(looked_up(run) for run in runs),
            share=Spread.of(one.share for one in ledgers),
            saved=Spread.of(one.saved for one in ledgers),
            less=Spread.of(one.less for one in ledgers),
            filled_elsewhere=Spread.of(elsewhere),
        )

    def _harvested(self, runs: Sequence[Run], cost: str) -> Harvested:
        harvest = [self._sum(run, 'model', cost) for run in runs]
        shares = [self._sum(run, 'model', cost, shared=True) for run in runs]
        training = [_end(costs_at(run.epochs)[cost]) for run in runs]

        def together(amounts: Sequence[float | None]) -> Spread | None:
            return Spread.of(
                None if own is None or amount is None else own + amount
                for own, amount in zip(training, amounts, strict=True)
            )

        return Harvested(Spread.of(harvest), Spread.of(shares), together(harvest), together(shares))

    def _sum(self, run: Run, source: str, cost: str, shared: bool = False) -> float | None:
        """What the views of that source took which the run could look up; ``None`` where that is not known."""
        if self._unknown(run):
            return None
        amount = 0.0
        for key, view in self._views(run, source):
            spent = getattr(view, cost)
            if spent is None:
                return None
            amount += spent / (self._users[key] if shared else 1)
        return amount

    def _views(self, run: Run, source: str) -> list[tuple[tuple[Path, int], View]]:
        """The recorded views of a source that the run's epochs could show, each under a key of its own."""
        if not looked_up(run):
            return []
        data = run.config.get('data')
        views = data.get('views') if isinstance(data, dict) else None
        limit = views if isinstance(views, int) else max(run.planned_epochs or 0, run.last_epoch)
        places = dict.fromkeys(path for path in self._archives(run) if path is not None)
        return [
            ((path, view.number), view)
            for path in places
            for view in self._recordings[path].views
            if view.source == source and view.number < limit
        ]

    def _unknown(self, run: Run) -> bool:
        return bool(looked_up(run)) and None in self._archives(run)

    def _archives(self, run: Run) -> list[Path | None]:
        """The reported runs that may have taught this one from their archives; ``None`` for one that is not there."""
        return [self._find(run, teacher.run) for teacher in teachers(run) if not teacher.live] or [None]

    def _find(self, run: Run, place: str) -> Path | None:
        """A run directory among the reported ones: by its path, or beside the student where both have moved."""
        if '\0' in place:
            return None
        there = Path(os.path.realpath(place))
        if there in self._by_path:
            return there
        beside = run.path.resolve().parent / there.name
        return beside if beside in self._by_path and '://' not in place and not os.path.isdir(place) else None


@dataclass(frozen=True)
class _Ledger:
    """Multiply-adds of one run's whole training: the student's, the teachers', and of outputs that were looked up."""

    student: float | None
    computed: float
    recorded: float | None
    filled: float

    @classmethod
    def of(cls, run: Run) -> _Ledger:
        computed = _end(series(run.epochs, 'multiply_adds_teacher_total')) or 0.0
        # What a run computed to fill an archive it also looked up. How much that is of what its teachers computed is
        # not logged: all of it, lest savings be claimed that were none.
        fills = any(teacher.fill for teacher in teachers(run))
        return cls(
            student=_end(series(run.epochs, 'multiply_adds_student_total')),
            computed=computed,
            recorded=_end(series(run.epochs, 'multiply_adds_teacher_saved_total')),
            filled=computed if fills else 0.0,
        )

    @property
    def saved(self) -> float | None:
        return None if self.recorded is None else self.recorded - self.filled

    @property
    def share(self) -> float | None:
        return self._of(0.0)

    @property
    def less(self) -> float | None:
        return None if self.student is None else self._of(self.student)

    def _of(self, student: float) -> float | None:
        """The saved part of what it all would have cost with live teachers."""
        if self.saved is None:
            return None
        live = student + self.computed + self.saved
        return self.saved / live if live > 0 else None


def looked_up(run: Run) -> float:
    """How many outputs of teachers the run looked up."""
    return _end(series(run.epochs, 'images_recorded_total')) or 0.0


def _stored(archives: Sequence[Recordings]) -> Iterable[Stored]:
    yield from _kind('losses', [one.losses for one in archives])
    kinds = dict.fromkeys((view.source, view.top_k) for one in archives for view in one.views)
    for source, top_k in kinds:
        what = 'logits' if top_k is None else f'top-{top_k} logits'
        views = [[view for view in one.views if (view.source, view.top_k) == (source, top_k)] for one in archives]
        yield from _kind(f'{what}, {_SOURCES.get(source, "of unknown source")}', views)
    yield from _kind('adversarial examples', [one.adversarial for one in archives])
    yield from _kind('list of samples', [(one.samples,) if one.samples else () for one in archives])


def _kind(what: str, archives: Sequence[Sequence[float] | Sequence[View]]) -> Iterable[Stored]:
    """Nothing where no archive has such tables; else means over those that have."""
    having = [tables for tables in archives if tables]
    sizes = [[table.bytes if isinstance(table, View) else table for table in tables] for tables in having]
    spent = {
        cost: Spread.of(_total(getattr(table, cost, None) for table in tables) for tables in having)
        for cost in HARVEST_COSTS
    }
    tables = Spread.of(len(one) for one in sizes)
    whole, each = Spread.of(sum(one) for one in sizes), Spread.of(sum(one) / len(one) for one in sizes)
    if tables and whole and each:
        yield Stored(what, tables, whole, each, **spent)


def _total(amounts: Iterable[float | None]) -> float | None:
    values = list(amounts)
    return None if None in values else sum(value for value in values if value is not None)


def _end(values: dict[int, float]) -> float | None:
    return values[max(values)] if values else None
