"""A teacher that looks its outputs up in a run's archive, and the live one beside it for what was never recorded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.archive import Archive, Manifest, RunDir, Samples
from composer_kd.core.errors import UserError
from composer_kd.models.batch import keys_of
from composer_kd.models.composer_compat import CHANGE_IMAGES, DROP_SAMPLES, first_of
from composer_kd.models.finished_run import FinishedRun
from composer_kd.storage.fetch import is_remote
from composer_kd.teachers.base import BaseTeacher, Outputs
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.live import LiveTeacher, Normalization

__all__ = ['UNSEEN', 'RecordedTeacher']

log = logging.getLogger(__name__)

UNSEEN = ('live', 'label')


class RecordedTeacher(BaseTeacher):
    """A run's recorded logits as a teacher; see :meth:`composer_kd.Teacher.recorded`.

    Attributes:
        archive: Where the logits are.
        looks_up: Whether the archive serves this training; decided when its data is known (FIT_START). Until then, and
            where it does not, :attr:`live` teaches.
        live: The run's model; loaded when something has to be computed.
        chosen: For a run directory that may be taught either way, what was chosen and why; said by rank 0.
    """

    def __init__(
        self,
        run: str | Path,
        name: str | None = None,
        fill: bool = False,
        unseen: str = 'live',
        data_normalization: Normalization | None = None,
        or_live: bool = False,
    ):
        if not isinstance(fill, bool):
            raise UserError(f'Teacher.recorded({str(run)!r}): fill is true or false, got {fill!r}')
        if unseen not in UNSEEN:
            raise UserError(f"Teacher.recorded({str(run)!r}): unseen is 'live' or 'label', got {unseen!r}")
        if fill and is_remote(str(run)):
            raise UserError(
                f'Teacher.recorded({str(run)!r}): fill keeps what it computes, and a remote is only read; copy the run '
                f'here'
            )
        self.archive = Archive(run)
        self.path = str(run)
        self.name = name or Path(run).name
        self.fill = fill
        self.unseen = unseen
        self.or_live = or_live
        self.data_normalization = data_normalization
        # What is only looked up needs no model: any recording will do, that of a Trainer without a run.yaml too.
        alone = unseen == 'label' and not fill and not or_live
        self._finished = None if alone else FinishedRun.open(self.archive.run)
        self.manifest: Manifest = self._finished.manifest if self._finished else self.archive.manifest()
        self.looks_up = not or_live
        self.chosen: str | None = None
        self.live: LiveTeacher | None = None
        self._tapped = False
        if or_live:
            self.load_live()  # Its faults are found where a live teacher's are: before anything is built around it.

    # -- deciding -------------------------------------------------------------------------------------------------

    def place(self, state: Any) -> None:
        problem = refused_beside(state.algorithms)
        if problem and not self.or_live:
            raise UserError(f'teacher {self.name!r}: {problem}')
        if self.live is not None:
            self.live.place(state)

    def choose(self, state: Any, views: Iterable[int] | None, begun_with: str | None = None) -> str:
        """Look up or compute: said once the training data is known, by rank 0, and logged.

        Args:
            state: The trainer's.
            views: The views that the training will ask for; ``None`` if that cannot be told.
            begun_with: What this returned when a training that is continued began: it is not decided twice.

        Returns:
            The hash of the weights that the recorded outputs are of (``'moving'`` where a training recorded them and
            left none), or an empty string for a teacher that computes.
        """
        dataset = getattr(state.train_dataloader, 'dataset', None)
        problem = refused_beside(state.algorithms) or self._misfit(dataset, views)
        if self._tapped:
            problem = 'its features are asked for, and those are not recorded'
        weights = self.manifest.weights.hash if self.manifest.weights else 'moving'
        if begun_with and begun_with != weights:
            problem = f'{self.path} holds other weights by now; put those back, or begin anew'
        if problem and (not self.or_live or begun_with):
            began = 'this training began with its recorded outputs; ' if begun_with else ''
            raise UserError(f'teacher {self.name!r}: {began}{problem}')
        looks_up = problem is None if begun_with is None else bool(begun_with)
        if self.or_live:
            why = f': {problem}' if problem else ''
            self.chosen = f'looked up, in {len(self.archive.views)} views' if looks_up else f'live{why}'
            log.info('teacher %s is %s', self.name, self.chosen)
        return weights if looks_up else ''

    def settle(self, state: Any, views: Iterable[int] | None, looks_up: bool) -> None:
        """Get ready for what was chosen; the model stays where something may have to be computed."""
        self.looks_up = looks_up
        if not looks_up:
            return
        seen = self.rows(state.train_dataloader.dataset) >= 0
        needs_live = self.fill or (self.unseen == 'live' and not (seen.all() and self._complete(views)))
        if not needs_live:
            self.live = None
        elif self.live is None:
            self.load_live().place(state)
        if seen.any() and not seen.all():
            how = 'are computed by the model' if needs_live else 'are taught by their labels alone'
            log.warning(
                'teacher %s: %s of %s samples are not in its archive (new or changed); they %s',
                self.name, f'{int((~seen).sum()):,}', f'{len(seen):,}', how,
            )  # fmt: skip

    def _misfit(self, dataset: Any, views: Iterable[int] | None) -> str | None:
        """Why the archive cannot serve this data, and what to do; ``None`` if it can."""
        where = self.path
        if not all(hasattr(dataset, name) for name in ('ids', 'content_hashes', 'labels', 'augmentation')):
            return (
                f'recorded outputs are looked up by key, and the training data ({type(dataset).__name__}) has none; '
                f'use data out of shards (composer-kd convert), or the live teacher: Teacher.from_run({where!r})'
            )
        classes = self.manifest.data.num_classes
        if getattr(dataset, 'num_classes', classes) != classes:
            return f'{where} was trained on {classes} classes, the data has {dataset.num_classes}; use another teacher'
        recorded = self.archive.views if self.archive.exists else []
        wanted = None if views is None else sorted(set(views))
        if not self.fill:
            remedy = f'record them with `composer-kd record {where}`, or use fill: true or the live teacher'
            if not recorded:
                return f'{where} has no recorded logits; {remedy}'
            if wanted is None or not set(wanted) <= set(recorded):
                shown = f'views {_ranges(recorded)}'
                asked = 'fresh views every epoch' if wanted is None else f'views {_ranges(wanted)}'
                return (
                    f'{where} holds {shown}, the training wants {asked}; set data.views to {len(recorded)}, or {remedy}'
                )
        for view in recorded:
            metadata = self.archive.metadata('logits', view)
            if problem := self._other_recording(metadata, dataset):
                return problem
        rows = self.rows(dataset) if recorded else np.zeros(0, np.int64)
        if recorded and not (rows >= 0).any() and not self.fill:
            return (
                f'{where} holds none of this data (no id with the same content); teach with the live teacher, or '
                f'record over this data: composer-kd record {where} data.source=...'
            )
        return None

    def check_table(self, view: int, dataset: Any) -> None:
        """Refuse a table that is not what was decided on: somebody may have recorded anew meanwhile."""
        if view not in self.archive.views:
            if self.fill:
                return
            raise UserError(
                f'teacher {self.name!r}: {self.path} holds no view {view}, which this epoch asks for; record it with '
                f'`composer-kd record {self.path}`, or use fill: true'
            )
        if problem := self._other_recording(self.archive.metadata('logits', view), dataset):
            raise UserError(f'teacher {self.name!r}: {problem}')

    def _other_recording(self, metadata: dict[str, Any], dataset: Any) -> str | None:
        theirs, ours = metadata.get('augmentation') or {}, dataset.augmentation.as_mapping()
        if theirs != ours:
            # Of other names, the rest differs anyway.
            keys = ['name'] if theirs.get('name') != ours['name'] else sorted(map(str, {*theirs, *ours}))
            differences = ', '.join(
                f'{key} {theirs.get(key)!r} there, {ours.get(key)!r} here'
                for key in keys
                if theirs.get(key) != ours.get(key)
            )
            return (
                f'{self.path} was recorded with another augmentation ({differences}); make data the same, or record '
                f'again with --replace'
            )
        weights = self.manifest.weights
        if metadata.get('source') != 'training' and weights is not None and metadata.get('weights') != weights.hash:
            return f'{self.path}: its logits are of other weights than it holds now; record again with --replace'
        return None

    def _complete(self, views: Iterable[int] | None) -> bool:
        """Whether every view that is wanted knows every sample of the archive."""
        samples = len(self.archive.samples())
        return views is not None and all(
            self.archive.metadata('logits', view)['seen'] == samples for view in set(views)
        )

    def rows(self, dataset: Any) -> NDArray[np.int64]:
        """For each row of the data set the archive's, or -1."""
        if not self.archive.exists:
            return np.full(len(dataset), -1, np.int64)
        return self.archive.samples().rows_by_key(Samples.of(dataset))

    def load_live(self) -> LiveTeacher:
        if self.live is None:
            self.live = RunTeacher(self.finished_run, self.name, self.data_normalization)
        return self.live

    # -- teaching -------------------------------------------------------------------------------------------------

    def outputs(self, batch: Any, state: Any) -> Outputs:
        """What the model says to this very batch; what is recorded is looked up by :class:`.LogitTables`."""
        keys = keys_of(batch)
        if self.looks_up and keys is not None and bool((keys[:, 1] >= 0).any()) and self.live is None:
            raise UserError(f'teacher {self.name!r} is recorded: its outputs are looked up for a whole batch')
        return self.compute(batch, state)

    def tap(self, modules: Sequence[str]) -> None:
        if self.or_live:
            self._tapped = True
            self.load_live().tap(modules)
            return
        raise UserError(
            f'teacher {self.name!r} is a recorded one, and features are not recorded; use the live teacher: '
            f'Teacher.from_run({self.path!r}), or {{live: {self.path}}} in a YAML'
        )

    def start(self, state: Any) -> None:
        if self.live is not None:
            self.live.start(state)

    def release(self) -> None:
        if self.live is not None:
            self.live.release()

    def compute(self, batch: Any, state: Any) -> Outputs:
        """What the run's model says, recorded or not."""
        if self.live is None:
            live = self.load_live()
            live.place(state)
            live.start(state)
            return live.outputs(batch, state)
        return self.live.outputs(batch, state)

    @property
    def live_teachers(self) -> Sequence[LiveTeacher]:
        return () if self.live is None else (self.live,)

    @property
    def run(self) -> RunDir:
        return self.archive.run

    @property
    def finished_run(self) -> FinishedRun:
        """The run with its model; one that is only looked up may lack it."""
        self._finished = self._finished or FinishedRun.open(self.archive.run)
        return self._finished

    @property
    def weights_hash(self) -> str | None:
        return self.manifest.weights.hash if self.manifest.weights is not None else None

    @property
    def only_looks_up(self) -> bool:
        return self.unseen == 'label' and not self.fill and self.live is None

    @property
    def stored_accuracy(self) -> float | None:
        """On the validation part, at the end of the run's own training."""
        lines = self.archive.run.metrics()
        return next((line['val_accuracy'] for line in reversed(lines) if line.get('val_accuracy') is not None), None)

    def multiply_adds(self, shape: Sequence[int]) -> int:
        if self.live is not None:
            return self.live.multiply_adds(shape)
        return self.manifest.multiply_adds or 0

    def __repr__(self) -> str:
        if self.or_live:
            return f'Teacher.of({self.path!r})'
        return f'Teacher.recorded({self.path!r}, fill={self.fill}, unseen={self.unseen!r})'


def refused_beside(algorithms: Iterable[Any]) -> str | None:
    """Why recorded outputs would be those of other images, beside these algorithms; ``None`` if they are not."""
    algorithms = list(algorithms)
    changing = [one for one in algorithms if not getattr(one, 'leaves_teachers_the_views', False)]
    if name := first_of(changing, CHANGE_IMAGES):
        way_out = 'set its teachers_see to clean' if name == 'AdversarialRecycling' else f'leave out {name}'
        return (
            f'recorded outputs belong to the image that its key names, and {name} makes another one of it; '
            f'{way_out}, or use the live teacher'
        )
    if name := first_of(algorithms, DROP_SAMPLES):
        return (
            f'{name} drops images of a batch but not their keys, so recorded outputs would be those of others; '
            f'leave out {name}, or use the live teacher'
        )
    return None


def _ranges(numbers: Sequence[int]) -> str:
    """``0 to 3`` for consecutive numbers, else all of the first few."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f'{numbers[0]} to {numbers[-1]}'
    return ', '.join(map(str, numbers[:6])) + (', ...' if len(numbers) > 6 else '')
