"""Whether the student has overtaken its teachers: both counted on the same batches of the first evaluator."""

from __future__ import annotations

from typing import Any

import torch
from composer.devices import Device
from composer.utils import dist
from torch import Tensor

__all__ = ['Overtaking']


class Overtaking:
    """Counts right answers of the student and, once, of the teachers' mix; the decision is latched.

    With several ranks the counts are summed, so that all ranks decide alike.
    """

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
