"""Whether the student has overtaken its teachers: both counted on the same batches of the first evaluator."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from composer.core import Event, State
from composer.devices import Device
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.models.batch import labels_of, logits_of

if TYPE_CHECKING:
    from composer_kd.algorithms.distillation.distillation import Distillation

__all__ = ['StudentOvertakes', 'watch']

log = logging.getLogger(__name__)


class StudentOvertakes:
    """Counts right answers of the student and, once, of the teachers' mix; the decision is latched.

    With several ranks the counts are summed, so that all ranks decide alike.
    """

    EVENTS = frozenset({Event.EVAL_START, Event.EVAL_AFTER_FORWARD, Event.EVAL_END})

    def __init__(self) -> None:
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


def watch(overtaking: StudentOvertakes, owner: Distillation, event: Event, state: State, logger: Logger) -> None:
    """Follow an evaluation of the first evaluator; when it ends, decide."""
    first = state.evaluators[0].label if state.evaluators else None
    if overtaking.overtaken or state.dataloader_label != first or state.max_duration is None:
        return
    if event == Event.EVAL_START:
        overtaking.start()
    elif event == Event.EVAL_AFTER_FORWARD:
        labels = labels_of(state.batch)
        if labels is None:
            raise UserError(
                f"{type(owner).__name__}: schedule 'until overtaken' needs hard labels in the evaluation batches"
            )
        student = logits_of(state.outputs, 'the student')
        target = None
        if overtaking.needs_teachers:
            if any(teacher.only_looks_up for teacher in owner.teachers):
                overtaking.teacher_accuracy = _stored_accuracy(owner)
            else:
                target = owner.mix.expected(owner.faculty.query_all(state))
        overtaking.count(labels, student, target)
    else:
        overtaking.end(state.device)
        logger.log_metrics(overtaking.metrics())
        if overtaking.overtaken:
            log.info('%s: the student has overtaken its teachers: %s', type(owner).__name__, overtaking.metrics())


def _stored_accuracy(owner: Distillation) -> float:
    """Of teachers that cannot be asked: the best that their runs, and those of the others, ended with."""
    stored = [teacher.stored_accuracy for teacher in owner.teachers]
    known = [accuracy for accuracy in stored if accuracy is not None]
    if not known:
        raise UserError(
            f"{type(owner).__name__}: schedule 'until overtaken' needs the teachers' validation accuracy, and their "
            f"runs stored none; use unseen='live', or a run with data.val_fraction above 0"
        )
    return max(known)
