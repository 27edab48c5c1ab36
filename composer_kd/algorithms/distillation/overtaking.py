"""Compare the student with its teachers on the same batches of the first evaluator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from composer.core import Event, State
from composer.devices import Device
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.models.batch import labels_of, logits_of
from composer_kd.teachers.base import BaseTeacher

__all__ = ['StudentOvertakes']

log = logging.getLogger(__name__)


class StudentOvertakes:
    """Counts right answers of the student and, once, of the teachers' mix; once overtaken, it stays so.

    With several ranks the counts are summed, so that all ranks decide alike.

    Args:
        owner: Names the algorithm in a line.
    """

    EVENTS = frozenset({Event.EVAL_START, Event.EVAL_AFTER_FORWARD, Event.EVAL_END})

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.overtaken = False
        self.teacher_accuracy: float | None = None
        self.student_accuracy: float | None = None
        self.start()

    @property
    def needs_teachers(self) -> bool:
        return self.teacher_accuracy is None

    def start(self) -> None:
        self._student: list[Tensor] = []
        self._teacher: list[Tensor] = []
        self._samples = 0

    def count(self, labels: Tensor, student: Tensor, target: Tensor | None) -> None:
        """Add a batch; ``target`` is the teachers' mix, ``None`` once it has been counted."""
        self._samples += len(labels)
        self._student.append((student.argmax(dim=1) == labels).sum())
        if target is not None:
            self._teacher.append((target.argmax(dim=1) == labels).sum())

    def end(self, device: Device) -> None:
        """Sum over ranks and decide."""
        zero = device.tensor_to_device(torch.zeros((), dtype=torch.float64))
        counts = torch.stack([zero + self._samples, sum(self._student, zero), sum(self._teacher, zero)])
        dist.all_reduce(counts, reduce_operation='SUM')
        samples, student, teacher = counts.tolist()
        if not samples:
            return
        self.student_accuracy = student / samples
        if self.teacher_accuracy is None:
            self.teacher_accuracy = teacher / samples
        self.overtaken = student / samples > self.teacher_accuracy

    def metrics(self) -> dict[str, float]:
        return {
            'distill/student_accuracy': self.student_accuracy or 0.0,
            'distill/mix_accuracy': self.teacher_accuracy or 0.0,
            'distill/overtaken': float(self.overtaken),
        }

    def state_dict(self) -> dict[str, Any]:
        return {'overtaken': self.overtaken, 'teacher_accuracy': self.teacher_accuracy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.overtaken, self.teacher_accuracy = state['overtaken'], state['teacher_accuracy']

    def on_event(
        self,
        event: Event,
        state: State,
        logger: Logger,
        teachers: Sequence[BaseTeacher],
        target_of: Callable[[State], Tensor],
    ) -> None:
        """Follow an evaluation of the first evaluator; when it ends, decide.

        Args:
            event: One of :attr:`EVENTS`.
            state: Composer's state.
            logger: Takes the accuracies.
            teachers: Those that the student may overtake.
            target_of: Computes the teachers' mix for the state's batch.
        """
        first = state.evaluators[0].label if state.evaluators else None
        if self.overtaken or state.dataloader_label != first or state.max_duration is None:
            return
        if event == Event.EVAL_START:
            self.start()
        elif event == Event.EVAL_AFTER_FORWARD:
            labels = labels_of(state.batch)
            if labels is None:
                raise UserError(f"{self.owner}: schedule 'until overtaken' needs hard labels in the evaluation batches")
            target = None
            if self.needs_teachers:
                if any(teacher.only_looks_up for teacher in teachers):
                    self.teacher_accuracy = self._stored_accuracy(teachers)
                else:
                    target = target_of(state)
            self.count(labels, logits_of(state.outputs, 'the student'), target)
        else:
            self.end(state.device)
            logger.log_metrics(self.metrics())
            if self.overtaken:
                log.info('%s: the student has overtaken its teachers: %s', self.owner, self.metrics())

    def _stored_accuracy(self, teachers: Sequence[BaseTeacher]) -> float:
        """The best validation accuracy that the teachers' runs ended with."""
        known = [accuracy for teacher in teachers if (accuracy := teacher.stored_accuracy) is not None]
        if not known:
            raise UserError(
                f"{self.owner}: schedule 'until overtaken' needs the teachers' validation accuracy, and their runs "
                f"stored none; use unseen='live', or a run with data.val_fraction above 0"
            )
        return max(known)
