"""The teachers of one algorithm: queried or looked up, their outputs checked, counted and timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress
from composer_kd.models.batch import keys_of
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.checks import OutputChecks
from composer_kd.teachers.clock import Clock
from composer_kd.teachers.recorded_logits import RecordedLogits

__all__ = ['Query', 'TeacherPool']


@dataclass(frozen=True)
class Query:
    """A microbatch that teachers are queried about.

    Attributes:
        state: Composer's state.
        batch: What teachers see: the very batch that the student saw, unless an algorithm has kept another for them.
        student: The student's logits ``[B, C]``, for the shapes.
        labels: The hard labels ``[B]``, where the batch has them.
        first: Where the microbatch begins in the step's batch.
        add_check: Takes a teacher's number and the row of :class:`.OutputChecks` about its outputs.
    """

    state: State
    batch: Any
    student: Tensor
    labels: Tensor | None
    first: int
    add_check: Callable[[int, Tensor], None]


class TeacherPool:
    """The teachers of one algorithm.

    Args:
        teachers: Live and recorded ones; those of one name are given a number each.
        owner: Names the algorithm in an error line.
    """

    def __init__(self, teachers: Sequence[BaseTeacher], owner: str):
        self.teachers = _with_unique_names(list(teachers))
        self.owner = owner
        self.checks = OutputChecks([teacher.name for teacher in self.teachers])
        self.clock = Clock()
        self.images_computed = [0] * len(self.teachers)
        """Forward passes so far in this process, one number a teacher, on this rank."""
        self.images_recorded = [0] * len(self.teachers)
        """Outputs looked up so far in this process (forward passes saved), one number a teacher, on this rank."""
        self._recorded = RecordedLogits(self.teachers, owner)
        self._in_step = {'queried': 0, 'recorded': 0}
        self.validated = False
        """Whether a step has ended in which every teacher was queried."""
        self._recorded_validated = False

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def live(self) -> list[BaseTeacher]:
        """The teachers that compute, with the models that recorded ones keep for what is not recorded."""
        return [live for teacher in self.teachers for live in teacher.live_teachers]

    # -- before training ------------------------------------------------------------------------------------------

    def place(self, state: State) -> None:
        """Put models where the student is, and see that all ranks hold the same ones."""
        for teacher in self.teachers:
            teacher.place(state)
        if dist.get_world_size() == 1:
            return
        everyone = dist.all_gather_object([live.weights_hash for live in self.live])
        if any(other != everyone[0] for other in everyone):
            raise UserError(
                f'{self.owner}: the ranks hold teachers with different weights; load them from the same file '
                f'on every rank, or seed their initialisation'
            )

    def start(self, state: State, strength: Callable[[Progress], float]) -> None:
        """Begin a training, now that its data and its optimizer are known.

        Args:
            state: Composer's state.
            strength: The weight of the teachers' term at a point of the training.
        """
        self._recorded.start(state, strength)
        for teacher in self.teachers:
            try:
                teacher.start(state)
            except UserError as error:
                raise UserError(f'{self.owner}: {error}') from None

    # -- a step ---------------------------------------------------------------------------------------------------

    def look_up(self, state: State) -> None:
        """Look up what is recorded of a batch, once for all its microbatches: it is still whole and on the host."""
        if self._recorded.teachers:
            with self.clock.running(state.device.name == 'gpu'):
                for number, images in self._recorded.look_up(state).items():
                    self.images_computed[number] += images
            self._in_step = {'queried': 0, 'recorded': 0}

    def validate(self, query: Query, soon: Sequence[int]) -> None:
        """Query every teacher once, whatever schedule and mix: one that does not fit is found in the first batch.

        Args:
            query: The first step's microbatch.
            soon: The numbers of those that are about to be queried anyway.
        """
        for number in range(len(self)):
            if number not in soon and number not in self._recorded.teachers:
                self._compute(number, query)

    def outputs(self, selected: Sequence[int], query: Query) -> tuple[Tensor, Tensor | None]:
        """Logits ``[K, B, C]`` of the selected teachers, and which are known, ``[K, B]`` (``None``: all).

        A sample that an archive does not know is computed by that teacher's model, where it has one to hand.
        """
        recorded = self._recorded.teachers
        if not recorded:
            return torch.stack([self._compute(number, query) for number in selected]), None
        keys = keys_of(query.batch)
        assert keys is not None
        looked_up, missing = self._recorded.part(query.first, keys)
        place = {number: place for place, number in enumerate(recorded)}
        outputs, masks = [], []
        for number in selected:
            if number in recorded:
                absent = None if missing is None else missing[place[number]]
                logits, known = self._complete(number, looked_up[place[number]], absent, query)
            else:
                logits, known = self._compute(number, query), None
            outputs.append(logits)
            masks.append(known)
        if missing is None and list(selected) == list(recorded):
            return looked_up, None  # As they were gathered, without a copy.
        if all(known is None for known in masks):
            return torch.stack(outputs), None
        whole = torch.ones(len(query.student), dtype=torch.bool)
        known = torch.stack([whole if mask is None else mask for mask in masks])
        return torch.stack(outputs), known.to(query.student.device, non_blocking=True)

    def _compute(self, number: int, query: Query) -> Tensor:
        """The logits that a teacher computes for the microbatch, checked and counted."""
        logits = self.teachers[number].outputs(query.batch, query.state).logits
        self.checks.shapes(number, logits, query.student)
        self._check(number, logits, query)
        self.images_computed[number] += len(logits)
        return logits

    def _complete(
        self, number: int, logits: Tensor, missing: Tensor | None, query: Query
    ) -> tuple[Tensor, Tensor | None]:
        """Recorded logits of the microbatch, checked and counted; those that are missing computed where possible."""
        self.checks.shapes(number, logits, query.student)
        known = None if missing is None else ~missing
        served = len(logits) if known is None else int(known.sum())
        teacher = self._recorded.teachers[number]
        if known is not None and served < len(logits) and (teacher.unseen == 'live' or teacher.fill):
            unknown = (~known).nonzero().squeeze(1).to(logits.device, non_blocking=True)
            some: Any = tuple(part[unknown] for part in query.batch)
            logits = logits.clone()
            logits[unknown] = teacher.compute(some, query.state).logits
            self.images_computed[number] += len(unknown)
            known = None
        if not self.checks.judged[number]:
            if known is None:
                self._check(number, logits, query)
            elif known.any():
                rows = known.nonzero().squeeze(1).to(logits.device, non_blocking=True)
                self._check(number, logits[rows], query, of=rows)
        self.images_recorded[number] += served
        self._in_step['queried'] += len(logits)
        self._in_step['recorded'] += served
        return logits, known

    def _check(self, number: int, logits: Tensor, query: Query, of: Tensor | None = None) -> None:
        """Look into a teacher's outputs for the microbatch, or for some samples of it; judged at the step's end."""
        labels = query.labels if of is None or query.labels is None else query.labels[of]
        query.add_check(number, self.checks.row(number, logits, labels))

    def first_use(self, queried: bool) -> bool:
        """Whether teachers were first used in the step that ends: they are checked before the optimizer steps.

        Args:
            queried: Whether the step queried the teachers; recorded ones are looked up in the first step that does.
        """
        if self.validated and (self._recorded_validated or not queried):
            return False
        self.validated = True
        self._recorded_validated = self._recorded_validated or queried or not self._recorded.teachers
        return True

    def query_all(self, state: State) -> Tensor:
        """Logits ``[K, B, C]`` of every teacher for a batch of evaluation data."""
        with self.clock.running(state.device.name == 'gpu'):
            outputs = torch.stack([teacher.outputs(state.batch, state).logits for teacher in self.teachers])
        self.images_computed = [images + outputs.shape[1] for images in self.images_computed]
        return outputs

    # -- at the step's end, and in checkpoints ---------------------------------------------------------------------

    def metrics(self, rows: Sequence[Sequence[float]], more_to_come: bool) -> dict[str, float]:
        """Judge what the step's checks found, and return what there is to log of it.

        Args:
            rows: As in :meth:`composer_kd.teachers.checks.OutputChecks.judge`.
            more_to_come: Whether the teachers will be queried again in the next steps.
        """
        metrics = {}
        if self._in_step['queried']:
            self._recorded.check_alignment()
            metrics['distill/recorded'] = self._in_step['recorded'] / self._in_step['queried']
            self._in_step = {'queried': 0, 'recorded': 0}
        return metrics | self.checks.judge(rows, more_to_come)

    def state_dict(self) -> dict[str, Any]:
        return {'checks': self.checks.state_dict(), 'recorded': self._recorded.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checks.load_state_dict(state['checks'])
        self._recorded.load_state_dict(state.get('recorded', {}))


def _with_unique_names(teachers: list[BaseTeacher]) -> list[BaseTeacher]:
    """Give teachers of one name a number each, so that metrics and lines tell them apart."""
    names = [teacher.name for teacher in teachers]
    taken = set(names)
    for number, teacher in enumerate(teachers):
        if names.count(teacher.name) > 1:
            own = next(name for n in itertools.count(number) if (name := f'{teacher.name}-{n}') not in taken)
            taken.add(own)
            teacher.name = own
    return teachers
