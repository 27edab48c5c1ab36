"""What is recorded of a batch: looked up once when its step begins, completed by models, given out by microbatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress
from composer_kd.data.sampler import TrainSampler
from composer_kd.models.batch import keys_of
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.teachers.record import fill_view
from composer_kd.teachers.recorded import RecordedTeacher
from composer_kd.teachers.recordings import LogitBatch, LogitTables

if TYPE_CHECKING:
    from composer_kd.teachers.pool import Microbatch, TeacherPool

__all__ = ['RecordedLogits']


class RecordedLogits:
    """The recorded side of a faculty.

    Args:
        faculty: Whose teachers they are, and who counts and checks what they give.
    """

    def __init__(self, faculty: TeacherPool):
        self._faculty = faculty
        self.teachers: dict[int, int] = {}
        """Number of a teacher that looks up, to its place among those that do."""
        self._recordings: LogitTables | None = None
        self._looked: LogitBatch | None = None
        self._filled: set[tuple[int, int | None]] = set()
        self._begun_with: dict[str, str] = {}
        self._moved: Tensor | None = None
        self._step = {'asked': 0, 'recorded': 0}

    # -- before training ------------------------------------------------------------------------------------------

    def start(self, state: State, strength: Callable[[Progress], float]) -> None:
        """Decide, now that the data is known, who looks up; open the tables when they are first needed."""
        recorded = {
            number: teacher
            for number, teacher in enumerate(self._faculty.teachers)
            if isinstance(teacher, RecordedTeacher)
        }
        if not recorded:
            return
        views = _views_wanted(state, strength)
        for number, teacher in recorded.items():
            begun_with = self._begun_with.get(str(number))
            # Rank 0 decides: somebody may be recording into that archive at this moment.
            chosen = on_rank_zero(lambda t=teacher, b=begun_with: t.choose(state, views, b))
            teacher.settle(state, views, looks_up=bool(chosen))
            self._begun_with[str(number)] = chosen
        looking = [number for number, teacher in recorded.items() if teacher.looks_up]
        self.teachers = {number: place for place, number in enumerate(looking)}
        self._filled.clear()
        if looking:
            dataset = state.train_dataloader.dataset  # type: ignore[union-attr]
            device = next(state.model.parameters()).device
            self._recordings = LogitTables([recorded[number] for number in looking], dataset, device)

    # -- a step ---------------------------------------------------------------------------------------------------

    def batch(self, state: State) -> None:
        """Look the batch up; first, let teachers with ``fill`` record what they lack of its views."""
        keys = keys_of(state.batch)
        if keys is None:
            raise UserError(
                f'{self._faculty.owner}: recorded teachers look up by key, and this batch has none; batches are '
                f'(x, y, key), or use live teachers'
            )
        assert self._recordings is not None
        if any(teacher.fill for teacher in self._recordings.teachers):
            self._fill(keys, state)
        self._looked = self._recordings.look_up(keys)
        self._moved = None
        self._step = {'asked': 0, 'recorded': 0}

    def _fill(self, keys: Tensor, state: State) -> None:
        """Record what is missing of the step's views. Every rank comes here in every step, and for the same views."""
        recordings, sampler = self._recordings, _sampler(state)
        assert recordings is not None
        epoch = int(state.timestamp.epoch)
        selection = None if sampler is None else sampler.selection
        views = keys[:, 1].unique().tolist() if sampler is None else [sampler.view(epoch)]
        if sampler is None and dist.get_world_size() > 1:  # A sampler of the user's own may give ranks other views.
            views = sorted({view for of_rank in dist.all_gather_object(views) for view in of_rank})
        for view in views:
            # A curriculum asks for other samples of the same view in another epoch.
            asked = (view, None if selection is None else epoch)
            if asked in self._filled:
                continue
            wanted = np.ones(len(recordings.dataset), bool) if selection is None else selection(epoch)
            for number, place in self.teachers.items():
                if recordings.teachers[place].fill:
                    self._faculty.images_taught[number] += fill_view(recordings.teachers[place], state, view, wanted)
            recordings.forget(view)
            self._filled.add(asked)

    def outputs(self, asked: Sequence[int], batch: Microbatch) -> tuple[Tensor, Tensor | None]:
        """Logits ``[K, B, C]`` of the teachers that are asked, and which of them are known, ``[K, B]`` (``None``: all).

        A sample that an archive does not know is computed by that teacher's model, where it has one to hand.
        """
        faculty, looked = self._faculty, self._looked
        keys = keys_of(batch.shown)
        assert looked is not None
        assert keys is not None
        logits, seen, moved = looked.part(batch.sums.samples, keys)
        self._moved = moved if self._moved is None else self._moved | moved
        outputs, masks = [], []
        for number in asked:
            if number not in self.teachers:
                outputs.append(faculty.ask(number, batch))
                masks.append(None)
                continue
            place = self.teachers[number]
            faculty.checks.shapes(number, logits[place], batch.student)
            own, known = logits[place], None if seen is None else seen[place]
            served = len(own) if known is None else int(known.sum())
            if known is not None and not known.all():
                own, known = self._complete(number, own, known, batch)
            if not faculty.checks.judged[number]:
                if known is None:
                    faculty.check(number, own, batch)
                elif known.any():
                    rows = known.nonzero().squeeze(1).to(own.device, non_blocking=True)
                    faculty.check(number, own[rows], batch, of=rows)
            faculty.images_recorded[number] += served
            self._step['asked'] += len(own)
            self._step['recorded'] += served
            outputs.append(own)
            masks.append(known)
        if len(outputs) == len(self.teachers) == len(logits) and list(asked) == list(self.teachers) and seen is None:
            return logits, None  # As they were gathered, without a copy.
        if all(known is None for known in masks):
            return torch.stack(outputs), None
        whole = torch.ones(len(batch.student), dtype=torch.bool)
        known = torch.stack([whole if mask is None else mask for mask in masks])
        return torch.stack(outputs), known.to(batch.student.device, non_blocking=True)

    def _complete(self, number: int, own: Tensor, known: Tensor, batch: Microbatch) -> tuple[Tensor, Tensor | None]:
        teacher = self._faculty.teachers[number]
        assert isinstance(teacher, RecordedTeacher)
        if teacher.unseen == 'label' and not teacher.fill:
            return own, known
        unknown = (~known).nonzero().squeeze(1).to(own.device, non_blocking=True)
        some: Any = tuple(part[unknown] for part in batch.shown)
        own = own.clone()
        own[unknown] = teacher.compute(some, batch.state)
        self._faculty.images_taught[number] += len(unknown)
        return own, None

    def metrics(self) -> dict[str, float]:
        """The share of outputs that were looked up, and the check that they were those of the right samples."""
        if not self._step['asked']:
            return {}
        if self._moved is not None and bool(self._moved):
            raise UserError(
                f'{self._faculty.owner}: the microbatches came in another order than the batch, so recorded '
                f'outputs would be those of other samples; use live teachers with this way of splitting batches'
            )
        metrics = {'distill/recorded': self._step['recorded'] / self._step['asked']}
        self._step = {'asked': 0, 'recorded': 0}
        return metrics

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, str]:
        """Who looked up, and outputs of which weights: a training that is continued stays with it."""
        return dict(self._begun_with)

    def load_state_dict(self, state: dict[str, str]) -> None:
        self._begun_with = dict(state)


def _sampler(state: State) -> TrainSampler | None:
    sampler = getattr(state.train_dataloader, 'sampler', None)
    return sampler if isinstance(sampler, TrainSampler) else None


def _views_wanted(state: State, strength: Callable[[Progress], float]) -> list[int] | None:
    """The views of the epochs in which the schedule is on; ``None`` if that cannot be told beforehand."""
    sampler, progress = _sampler(state), Progress.of(state)
    # Beside a curriculum epochs have other lengths, and how many there are is not known.
    if sampler is None or progress.epochs is None or sampler.selection is not None:
        views = getattr(getattr(state.train_dataloader, 'dataset', None), 'views', None)
        return None if views is None else list(range(views))
    length = progress.epoch_length or 1
    views = set()
    for epoch in range(int(np.ceil(progress.epochs))):
        inside = (Progress(epoch, epoch * length + batch, batch, length, progress.epochs) for batch in range(length))
        if any(strength(one) for one in inside):
            views.add(sampler.view(epoch))
    return sorted(views)
