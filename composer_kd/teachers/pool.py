"""The teachers of one student: asked or looked up, and what they give checked, counted and timed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.algorithms.distillation.recorded_logits import RecordedLogits
from composer_kd.algorithms.distillation.sums import StepSums
from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress
from composer_kd.models.weights import weights_hash
from composer_kd.teachers.base import Teacher
from composer_kd.teachers.checks import OutputChecks
from composer_kd.teachers.clock import Clock
from composer_kd.teachers.live import LiveTeacher
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['Microbatch', 'TeacherPool']


@dataclass(frozen=True)
class Microbatch:
    """What the teachers are asked about.

    Attributes:
        state: Composer's state.
        shown: What teachers see: the very batch that the student saw, unless an algorithm has kept another for them.
        student: The student's logits ``[B, C]``, for the shapes.
        labels: The hard labels ``[B]``, where the batch has them.
        sums: The step's sums, which collect what the checks have to look into.
    """

    state: State
    shown: Any
    student: Tensor
    labels: Tensor | None
    sums: StepSums


class TeacherPool:
    """The teachers of one distillation.

    Args:
        teachers: Live and recorded ones; those of one name are given a number each.
        owner: How an error line calls the algorithm.
    """

    def __init__(self, teachers: Sequence[Teacher], owner: str):
        self.teachers = _with_names_of_their_own(list(teachers))
        self.owner = owner
        self.checks = OutputChecks([teacher.name for teacher in self.teachers])
        self.clock = Clock()
        self.images_taught = [0] * len(self.teachers)
        """Forward passes so far in this process, one number a teacher, on this rank."""
        self.images_recorded = [0] * len(self.teachers)
        """Outputs looked up so far in this process (forward passes saved), one number a teacher, on this rank."""
        self._lookup = RecordedLogits(self)
        self.met = False
        """Whether a step has ended in which everybody was asked."""
        self._heard = False  # Those who look up, too.

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def live(self) -> list[LiveTeacher]:
        """The teachers that compute, with the models that recorded ones keep for what is not recorded."""
        held = [teacher.live if isinstance(teacher, RecordedTeacher) else teacher for teacher in self.teachers]
        return [one for one in held if isinstance(one, LiveTeacher)]

    # -- before training ------------------------------------------------------------------------------------------

    def place(self, state: State) -> None:
        """Put models where the student is, and see that all ranks hold the same ones."""
        for teacher in self.teachers:
            teacher.place(state)
        if dist.get_world_size() == 1:
            return
        everyone = dist.all_gather_object([weights_hash(live.module) for live in self.live])
        if any(other != everyone[0] for other in everyone):
            raise UserError(
                f'{self.owner}: the ranks hold teachers with different weights; load them from the same file '
                f'on every rank, or seed their initialisation'
            )

    def start(self, state: State, strength: Callable[[Progress], float]) -> None:
        """Begin a training, now that its data and its optimizer are known.

        Args:
            state: Composer's state.
            strength: The weight of the distillation term at a point of the training.
        """
        self._lookup.start(state, strength)
        trained = {id(p) for optimizer in state.optimizers for group in optimizer.param_groups for p in group['params']}
        dataset = getattr(state.train_dataloader, 'dataset', None)
        for live in self.live:
            if any(id(parameter) in trained for parameter in live.module.parameters()):
                raise UserError(
                    f'{self.owner}: the optimizer holds parameters of teacher {live.name!r}; teachers are not trained'
                )
            live.read_normalization(dataset, state.device)

    # -- a step ---------------------------------------------------------------------------------------------------

    def look_up(self, state: State) -> None:
        """Gather what is recorded of a batch, once for all its microbatches: it is still whole and on the host."""
        if self._lookup.teachers:
            with self.clock.running(state.device.name == 'gpu'):
                self._lookup.batch(state)

    def meet(self, batch: Microbatch, soon: Sequence[int]) -> None:
        """Ask everybody once, whatever schedule and mix: who does not fit is found in the first batch, not in epoch 10.

        Args:
            batch: The first step's microbatch.
            soon: The numbers of those that are about to be asked anyway.
        """
        for number in range(len(self)):
            if number not in soon and number not in self._lookup.teachers:
                self.ask(number, batch)

    def outputs(self, asked: Sequence[int], batch: Microbatch) -> tuple[Tensor, Tensor | None]:
        """Logits ``[K, B, C]`` of those that are asked, and which of them are known, ``[K, B]`` (``None``: all)."""
        if self._lookup.teachers:
            return self._lookup.outputs(asked, batch)
        return torch.stack([self.ask(number, batch) for number in asked]), None

    def ask(self, number: int, batch: Microbatch) -> Tensor:
        """The logits that a teacher computes for the microbatch, checked and counted."""
        logits = self.teachers[number].logits(batch.shown, batch.state)
        self.checks.shapes(number, logits, batch.student)
        self.check(number, logits, batch)
        self.images_taught[number] += len(logits)
        return logits

    def check(self, number: int, logits: Tensor, batch: Microbatch, of: Tensor | None = None) -> None:
        """Look into what a teacher gave for the microbatch, or for some samples of it; judged at the step's end."""
        labels = batch.labels if of is None or batch.labels is None else batch.labels[of]
        batch.sums.add_check(number, self.checks.row(number, logits, labels))

    def first_use(self, asked: bool) -> bool:
        """Whether somebody spoke for the first time in the step that ends: what he said is checked before it is learnt.

        Args:
            asked: Whether the step asked the teachers; recorded ones are looked up in the first step that does.
        """
        if self.met and (self._heard or not asked):
            return False
        self.met = True
        self._heard = self._heard or asked or not self._lookup.teachers
        return True

    def query_all(self, state: State) -> Tensor:
        """Logits ``[K, B, C]`` for a batch of evaluation data."""
        with self.clock.running(state.device.name == 'gpu'):
            outputs = torch.stack([teacher.logits(state.batch, state) for teacher in self.teachers])
        self.images_taught = [images + outputs.shape[1] for images in self.images_taught]
        return outputs

    # -- at the step's end, and in checkpoints ---------------------------------------------------------------------

    def metrics(self, rows: Sequence[Sequence[float]], more_to_come: bool) -> dict[str, float]:
        """Judge what the step's checks found; what there is to log of it.

        Args:
            rows: As in :meth:`composer_kd.teachers.checks.OutputChecks.judge`.
            more_to_come: Whether the teachers will be asked again in the next steps.
        """
        return self._lookup.metrics() | self.checks.judge(rows, more_to_come)

    def state_dict(self) -> dict[str, Any]:
        return {'checks': self.checks.state_dict(), 'lookup': self._lookup.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checks.load_state_dict(state['checks'])
        self._lookup.load_state_dict(state.get('lookup', {}))


def _with_names_of_their_own(teachers: list[Teacher]) -> list[Teacher]:
    """Give teachers of one name a number each, so that metrics and lines tell them apart."""
    names = [teacher.name for teacher in teachers]
    taken = set(names)
    for number, teacher in enumerate(teachers):
        if names.count(teacher.name) > 1:
            own = next(name for n in itertools.count(number) if (name := f'{teacher.name}-{n}') not in taken)
            taken.add(own)
            teacher.name = own
    return teachers
