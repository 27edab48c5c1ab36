"""Explicit checks of what teachers give: before the first step, and while they teach."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.core.errors import UserError

__all__ = ['OutputChecks', 'at_chance_level']

log = logging.getLogger(__name__)

ENOUGH_SAMPLES = 512
# Fewer samples than this may well be the same image, or blank ones.
_ENOUGH_TO_VARY = 8


def at_chance_level(correct: int, counted: int, classes: int) -> bool:
    """Whether ``correct`` of ``counted`` right are what guessing would give.

    Within three standard deviations; of few samples within one, so that a fair teacher is seldom taken for a guesser.
    """
    chance = 1 / classes
    deviations = 3 if counted >= ENOUGH_SAMPLES else 1
    return correct / counted <= chance + deviations * math.sqrt(chance * (1 - chance) / counted)


def _outputs(logits: Tensor) -> str:
    """Say how many classes there are; a single output has been shown as the logits ``(0, z)`` of two."""
    return 'a single output' if logits.shape[1] == 2 and not logits[:, 0].any() else f'{logits.shape[1]} classes'


class OutputChecks:
    """Watches the outputs of all teachers of one algorithm.

    What can be told from shapes is refused at once. What has to look into the tensors is collected on the device, one
    row a teacher, and judged once a step together with everything else that is read back then: no extra wait.

    Args:
        names: The teachers' names.
    """

    COLUMNS = ('not_finite', 'alike', 'several', 'correct', 'counted')

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self.classes = 0
        self.correct = [0] * len(self.names)
        self.counted = [0] * len(self.names)
        self.judged = [False] * len(self.names)
        self._vary = [False] * len(self.names)

    def shapes(self, teacher: int, logits: Tensor, student: Tensor) -> None:
        """Refuse logits that cannot be compared with the student's."""
        self.classes = student.shape[1]
        name = self.names[teacher]
        if logits.shape[1] != student.shape[1]:
            raise UserError(
                f'teacher {name!r} gives {_outputs(logits)}, the student {_outputs(student)}; '
                f'a teacher must have been trained on the same classes'
            )
        if logits.shape[0] != student.shape[0]:
            raise UserError(f'teacher {name!r} gives {logits.shape[0]} rows for a batch of {student.shape[0]}')

    def row(self, teacher: int, logits: Tensor, labels: Tensor | None) -> Tensor:
        """What to look into, as one row of :attr:`COLUMNS`, float64 on the device."""
        not_finite = (~torch.isfinite(logits)).any()
        # Of the samples that can be compared, those of microbatches in which all are alike.
        several = len(logits) if len(logits) > 1 else 0
        row = logits.new_zeros(len(self.COLUMNS), dtype=torch.float64)
        row[0], row[1], row[2] = not_finite, ((logits == logits[0]).all() & ~not_finite) * several, several
        if labels is not None and not self.judged[teacher]:
            row[3], row[4] = (logits.argmax(dim=1) == labels).sum(), (labels >= 0).sum()
        return row

    def refuse_broken(self, rows: Sequence[Sequence[float]]) -> None:
        """Refuse outputs that nothing can be learnt from; ``rows`` as in :meth:`judge`.

        A teacher whose outputs have varied once is no constant: a later batch may be of one image.
        """
        for teacher, (name, (not_finite, alike, several, *_)) in enumerate(zip(self.names, rows, strict=True)):
            if not_finite:
                raise UserError(
                    f'teacher {name!r} gives NaN or infinite outputs; check its weights, and try precision: fp32'
                )
            self._vary[teacher] = self._vary[teacher] or alike < several
            if not self._vary[teacher] and several >= _ENOUGH_TO_VARY:
                raise UserError(
                    f'teacher {name!r} gives the same output for every sample of a batch; its weights are probably not '
                    f'the trained ones'
                )

    def judge(self, rows: Sequence[Sequence[float]], more_to_come: bool) -> dict[str, float]:
        """Refuse broken outputs, warn of teachers at chance level; the accuracies on the first batches, by metric name.

        Args:
            rows: A row a teacher, summed over microbatches and ranks.
            more_to_come: Whether the teachers will be asked again in the next steps; if not, judge by what is there.
        """
        self.refuse_broken(rows)
        metrics = {}
        for teacher, (*_, correct, counted) in enumerate(rows):
            if self.judged[teacher]:
                continue
            if counted:
                self.correct[teacher] += int(correct)
                self.counted[teacher] += int(counted)
                accuracy = self.correct[teacher] / self.counted[teacher]
                metrics[f'distill/teacher_accuracy/{self.names[teacher]}'] = accuracy
            if self.counted[teacher] >= ENOUGH_SAMPLES or not more_to_come:
                self._judge_accuracy(teacher)
        return metrics

    def finish(self) -> None:
        """Judge, at the end of a training, by what there was."""
        for teacher, judged in enumerate(self.judged):
            if not judged:
                self._judge_accuracy(teacher)

    def _judge_accuracy(self, teacher: int) -> None:
        correct, counted = self.correct[teacher], self.counted[teacher]
        # Without classes, this process has seen no batch: it continues after the last one of a training.
        if not counted or not self.classes:
            return
        self.judged[teacher] = True
        if at_chance_level(correct, counted, self.classes):
            # Logged, not warned of: where warnings are errors, a training would end by a guess.
            log.warning(
                f'teacher {self.names[teacher]!r} is at chance level: {correct} of {counted} right, '
                f'{self.classes} classes. Its classes may be in another order, or its inputs normalised otherwise, '
                f'or its weights not trained.'
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            'classes': self.classes,
            'correct': list(self.correct),
            'counted': list(self.counted),
            'judged': list(self.judged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state['judged']) == len(self.names):
            self.classes = state.get('classes', 0)
            self.correct, self.counted, self.judged = (list(state[key]) for key in ('correct', 'counted', 'judged'))
