"""Hints between layers: the student's features learn to predict the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from torch import Tensor, nn

from composer_kd.algorithms.roles import Cost, Need, Training, attach_modules, unused_modules
from composer_kd.core.errors import UserError
from composer_kd.models import plain
from composer_kd.teachers import FeatureTap, Teacher

__all__ = ['AcmeHints']


class AcmeHints(Algorithm):
    """Pull a layer of the student, through a trained 1x1 convolution, to a layer of the teacher.

    Args:
        teacher: A run or a teacher.
        hint: The teacher's module.
        guided: The student's module.
        channels: Of the student's and of the teacher's features.
        weight: Of the term.
        every: Hints are given in every n-th batch.
    """

    needs: ClassVar[Mapping[str, Need]] = {'teacher': Need('features')}

    def __init__(
        self,
        teacher: Any,
        hint: str,
        guided: str,
        channels: Sequence[int] = (16, 16),
        weight: float = 1.0,
        every: int = 1,
    ):
        self.teachers = [Teacher.of(teacher)]
        self.hint, self.weight, self.every = hint, weight, every
        self.tap = FeatureTap(guided)
        self.regressor = nn.Conv2d(*channels, kernel_size=1, bias=False)
        self.images = 0
        self.last_step: dict[str, float] = {}
        self._term: Tensor | None = None

    def modules(self) -> dict[str, nn.Module]:
        return {'regressor': self.regressor}

    def check(self, training: Training) -> None:
        if any(type(other).__name__ == 'ColOut' for other in training.others(self)):
            raise UserError(f'{training.owner(self)}: ColOut changes the size of features; leave it out')

    def costs(self) -> list[Cost]:
        (teacher,) = self.teachers
        return [
            Cost('teacher', self.images, multiply_adds=teacher.multiply_adds),
            Cost('other', self.images, passes=3, multiply_adds=self._cost_of_regressor),
        ]

    def seconds(self) -> dict[str, tuple[float, float]]:
        return {'teacher': (0.0, 0.0), 'other': (0.0, 0.0)}

    def _cost_of_regressor(self, shape: Sequence[int]) -> int:
        return self.regressor.weight.numel() * shape[1] * shape[2]

    def match(self, event: Event, state: State) -> bool:
        return event in {
            Event.INIT, Event.FIT_START, Event.BEFORE_FORWARD, Event.AFTER_FORWARD, Event.BEFORE_BACKWARD,
            Event.BATCH_END, Event.FIT_END,
        }  # fmt: skip

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        (teacher,) = self.teachers
        if event == Event.INIT:
            teacher.place(state)
            teacher.tap([self.hint])
            self.tap.attach(plain(state.model), 'the student')
            attach_modules(self, state)
        elif event == Event.FIT_START:
            self.check(Training.of(state))
            teacher.start(state)
        elif event == Event.BEFORE_FORWARD:
            self.tap.open = int(state.timestamp.batch) % self.every == 0
        elif event == Event.AFTER_FORWARD:
            if self.tap.open:
                (guided,) = self.tap.take().values()
                target = teacher.outputs(state.batch, state).features[self.hint]
                self._term = self.weight * (self.regressor(guided) - target).square().mean()
                self.images += len(guided)
            else:
                self._term = unused_modules(self)
        elif event == Event.BEFORE_BACKWARD:
            assert self._term is not None
            self.last_step = {'hints/loss': self._term.item()}
            state.loss = state.loss + self._term
            self._term = None
        elif event == Event.BATCH_END:
            logger.log_metrics(self.last_step)
        elif event == Event.FIT_END:
            self.tap.remove()
            teacher.release()
