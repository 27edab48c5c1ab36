"""What runs looked up in archives instead of computing it, and what it took to record that."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from composer_kd.report.load import Arm, Run, mapping, named_teachers, number
from composer_kd.report.stats import Spread, costs_at, last, series

__all__ = [
    'RECORDING_COSTS', 'ArmLookups', 'LookupStats', 'Lookups', 'RecordedTable', 'RecordingCost', 'read_tables',
]  # fmt: skip

RECORDING_COSTS = ('seconds', 'multiply_adds')
_SOURCES = {'model': 'recorded afterwards', 'fill': 'filled by students', 'training': 'from training'}


@dataclass(frozen=True)
class RecordedTable:
    """One table of an archive; what making it took is ``None`` where it took nothing or is not told."""

    what: str  # in words, with the source where that matters
    bytes: float  # on disk
    view: int | None = None  # of logits
    source: str = ''  # of logits: ``'model'`` (recorded after the training), ``'training'`` or ``'fill'``
    seconds: float | None = None
    multiply_adds: float | None = None


@dataclass(frozen=True)
class LookupStats:
    """What an arm looked up."""

    outputs: Spread | None  # outputs looked up, over all teachers
    # Of the multiply-adds of all outputs that the teachers gave, those that this run did not compute; with teachers of
    # One size that is the share of outputs
    share: Spread | None
    saved: Spread | None  # those multiply-adds; what the run computed to fill an archive is taken off
    less: Spread | None  # the share that they are of the whole training with live teachers
    # Multiply-adds of views that other runs computed to fill the archives, and this one looked up
    filled_elsewhere: Spread | None


@dataclass(frozen=True)
class RecordingCost:
    """One cost of an arm with the recording of its teachers' outputs; spreads are ``None`` where it is not known."""

    recording: Spread | None  # what it took to record the views that a run could see
    share: Spread | None  # the part of that which falls to a run if all that use a view share it
    whole: Spread | None  # the run's training and the recording
    shared: Spread | None  # the run's training and its share


@dataclass(frozen=True)
class ArmLookups:
    """What is known of the archives that an arm was taught from."""

    looked_up: LookupStats | None  # what its runs looked up; ``None`` if nothing
    costs: dict[str, RecordingCost]  # their costs with the recording of the teachers' outputs, by name
    # The fewest and the most runs that share a recording with one of them; both 0 without a recording
    sharers: tuple[int, int]
    unknown: bool  # whether one of them looked up in an archive that is not among the runs reported

    @property
    def took_recording(self) -> bool:
        """Whether a recording is known, and was not free."""
        return any(one.recording is not None and one.recording.mean > 0 for one in self.costs.values())


class Lookups:
    """Who looked up which view that was recorded after a training: its cost is charged whole to each, or shared by all.

    Args:
        runs: All that a report is about.
    """

    def __init__(self, runs: Sequence[Run]):
        self._by_path = {run.path.resolve(): run for run in runs}
        self._tables = {path: read_tables(run) for path, run in self._by_path.items()}
        self._users = Counter(key for run in runs for key, _ in self._views(run, 'model'))

    def of_arm(self, arm: Arm) -> ArmLookups:
        """Means over the runs of an arm that enter means."""
        runs = arm.counted
        sharers = [max((self._users[key] for key, _ in self._views(run, 'model')), default=0) for run in runs]
        return ArmLookups(
            looked_up=self._looked_up(runs),
            costs={cost: self._recording(runs, cost) for cost in RECORDING_COSTS},
            sharers=(min(sharers), max(sharers)),
            unknown=any(self._unknown(run) for run in runs),
        )

    def _looked_up(self, runs: Sequence[Run]) -> LookupStats | None:
        if not any(map(_outputs, runs)):
            return None
        stats = [self._of_run(run) for run in runs]
        return LookupStats(
            **{field.name: Spread.of(one.get(field.name) for one in stats) for field in fields(LookupStats)}
        )

    def _of_run(self, run: Run) -> dict[str, float | None]:
        """What :class:`LookupStats` says, of one run's whole training; what is not known is left out."""
        found: dict[str, float | None] = {'outputs': _outputs(run)}
        computed = last(series(run.epochs, 'multiply_adds_teacher_total')) or 0.0
        # What a run computed to fill an archive it also looked up. How much that is of what its teachers computed is
        # not logged: all of it, lest savings be claimed that were none.
        filled = computed if any(teacher.fill for teacher in _teachers(run)) else 0.0
        elsewhere = self._sum(run, 'fill', 'multiply_adds')
        if elsewhere is not None:
            found['filled_elsewhere'] = max(0.0, elsewhere - filled)
        recorded = last(series(run.epochs, 'multiply_adds_teacher_saved_total'))
        if recorded is not None:
            saved = found['saved'] = recorded - filled
            # The saved part of what the teachers, and the whole training, would have cost with live teachers.
            student = last(series(run.epochs, 'multiply_adds_student_total'))
            for name, rest in (('share', 0.0), ('less', student)):
                live = None if rest is None else rest + computed + saved
                found[name] = saved / live if live and live > 0 else None
        return found

    def _recording(self, runs: Sequence[Run], cost: str) -> RecordingCost:
        recording = [self._sum(run, 'model', cost) for run in runs]
        shares = [self._sum(run, 'model', cost, shared=True) for run in runs]
        training = [last(costs_at(run.epochs)[cost]) for run in runs]

        def together(amounts: Sequence[float | None]) -> Spread | None:
            return Spread.of(
                None if own is None or amount is None else own + amount
                for own, amount in zip(training, amounts, strict=True)
            )

        return RecordingCost(Spread.of(recording), Spread.of(shares), together(recording), together(shares))

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

    def _views(self, run: Run, source: str) -> list[tuple[tuple[Path, int], RecordedTable]]:
        """The recorded views of a source that the run's epochs could show, each under a key of its own."""
        if not _outputs(run):
            return []
        views = mapping(run.config.get('data')).get('views')
        limit = views if isinstance(views, int) else max(run.planned_epochs or 0, run.last_epoch)
        places = dict.fromkeys(path for path in self._archives(run) if path is not None)
        return [
            ((path, table.view), table)
            for path in places
            for table in self._tables[path]
            if table.source == source and table.view is not None and table.view < limit
        ]

    def _unknown(self, run: Run) -> bool:
        return bool(_outputs(run)) and None in self._archives(run)

    def _archives(self, run: Run) -> list[Path | None]:
        """The reported runs that may have taught this one from their archives; ``None`` for one that is not there."""
        return [self._find(run, teacher.run) for teacher in _teachers(run) if not teacher.live] or [None]

    def _find(self, run: Run, place: str) -> Path | None:
        """A run directory among the reported ones: by its path, or beside the student where both have moved."""
        if '\0' in place:
            return None
        there = Path(os.path.realpath(place))
        if there in self._by_path:
            return there
        beside = run.path.resolve().parent / there.name
        return beside if beside in self._by_path and '://' not in place and not os.path.isdir(place) else None


def _outputs(run: Run) -> float:
    """How many outputs of teachers the run looked up."""
    return last(series(run.epochs, 'images_recorded_total')) or 0.0


def read_tables(run: Run) -> list[RecordedTable]:
    """What the run's manifest says of its archive; nothing where it says nothing that can be understood."""
    archive, files = mapping(run.manifest.get('archive')), mapping(run.manifest.get('files'))

    def size(name: Any) -> float:
        return number(mapping(files.get(name) if isinstance(name, str) else None).get('bytes'), least=0) or 0.0

    def tables(kind: str) -> list[tuple[int, Mapping[str, Any]]]:
        found = mapping(archive.get(kind)).items()
        numbered = [(name, table) for name, table in found if isinstance(table, Mapping)]
        return [(int(name), table) for name, table in numbered if re.fullmatch('[0-9]+', str(name))]

    def logits(view: int, table: Mapping[str, Any]) -> RecordedTable:
        top_k, source = table.get('top_k'), str(table.get('source'))
        some = f'top-{top_k} ' if isinstance(top_k, int) and not isinstance(top_k, bool) else ''
        what = f'{some}logits, {_SOURCES.get(source, "of unknown source")}'
        costs = {cost: number(table.get(cost), least=0) for cost in RECORDING_COSTS}
        return RecordedTable(what, size(table.get('file')), view, source, **costs)

    found = [RecordedTable('losses', size(table.get('file'))) for _, table in tables('loss')]
    found += [logits(view, table) for view, table in tables('logits')]
    found += [RecordedTable('adversarial examples', size(table.get('file'))) for _, table in tables('adversarial')]
    samples = size(archive.get('samples'))
    return found + [RecordedTable('list of samples', samples)] * (samples > 0)


@dataclass(frozen=True)
class _TeacherEntry:
    """A teacher as ``run.yaml`` names it: a run directory; ``live`` if it never looks up, ``fill`` if it records."""

    run: str
    live: bool
    fill: bool


def _teachers(run: Run) -> Iterator[_TeacherEntry]:
    """The teachers that the run's algorithms name; those that are no run directories are left out."""
    for named in named_teachers(run.config.get('algorithms')):
        for entry in named if isinstance(named, list) else ():
            options = entry if isinstance(entry, Mapping) else {'recorded': entry}
            place = options.get('recorded', options.get('live'))
            if isinstance(place, str):
                yield _TeacherEntry(place, 'recorded' not in options, options.get('fill') is True)
