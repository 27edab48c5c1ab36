"""Read what algorithms have computed since the last look, by the costs that they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import State
from composer.models import ComposerModel

from composer_kd.algorithms.roles import Cost, HasTeachers, ReportsCost
from composer_kd.models import multiply_adds, plain
from composer_kd.models.batch import input_of

__all__ = ['WORK', 'CostMeter']

# Multiply-adds by kind of cost; outputs looked up and what computing them would have cost; images attacked, replayed.
WORK = ('teacher', 'recorded', 'saved', 'attack', 'attacked', 'replayed', 'other')


class CostMeter:
    """Counts since the last look, of every algorithm of a training; all of them on this rank."""

    def __init__(self) -> None:
        self._algorithms: list[ReportsCost] = []
        self._taught: list[HasTeachers] = []
        self._costs: list[Cost] = []
        self._seconds: dict[str, tuple[float, float]] = {}
        self._multiply_adds: dict[tuple[Any, ...], int] = {}

    def start(self, state: State) -> None:
        """Forget what was before: an algorithm may have been in a Trainer before this one."""
        self._algorithms = [one for one in state.algorithms if isinstance(one, ReportsCost)]
        self._taught = [one for one in state.algorithms if isinstance(one, HasTeachers)]
        self._costs = self._costs_now()
        self.seconds()

    def last_metrics(self) -> dict[str, float]:
        """The metrics that algorithms logged of the last step."""
        return {name: value for algorithm in self._algorithms for name, value in algorithm.last_step.items()}

    @property
    def has_teachers(self) -> bool:
        """Whether teachers take part in the training, if only in other epochs."""
        return bool(self._taught)

    @property
    def teacher_accuracy(self) -> float | None:
        """The teachers' accuracy on the first batches, where an algorithm says so."""
        known = [accuracy for one in self._taught if (accuracy := getattr(one, 'teacher_accuracy', None)) is not None]
        return sum(known) / len(known) if known else None

    def seconds(self) -> Mapping[str, tuple[float, float]]:
        """Seconds since the last time by kind, in steps and between them. On a GPU this waits for the work."""
        before, now = self._seconds, {}
        for algorithm in self._algorithms:
            for kind, (inside, between) in algorithm.seconds().items():
                so_far = now.get(kind, (0.0, 0.0))
                now[kind] = (so_far[0] + inside, so_far[1] + between)
        self._seconds = now
        none = (0.0, 0.0)
        return {
            kind: (now[kind][0] - before.get(kind, none)[0], now[kind][1] - before.get(kind, none)[1]) for kind in now
        }

    def work(self, state: State) -> dict[str, float]:
        """Work since the last time: multiply-adds, images and reused outputs by kind, as :data:`WORK` names them."""
        before, self._costs = self._costs, self._costs_now()
        work: dict[str, float] = dict.fromkeys(WORK, 0.0)
        for earlier, cost in zip(before, self._costs, strict=True):
            images, reused = cost.images - earlier.images, cost.reused - earlier.reused
            if not images and not reused:
                continue
            each = cost.passes * self.of_a_sample(state, cost)
            work[cost.kind] += images * each
            if cost.kind == 'teacher':
                work['recorded'] += reused
                work['saved'] += reused * each
            elif cost.kind == 'attack':
                work['attacked'] += images
                work['replayed'] += reused
        return work

    def of_a_sample(self, state: State, cost: Cost | None = None) -> int:
        """Multiply-adds of one forward pass, of the student or of what a cost is about; counted once a shape."""
        shape = tuple(input_of(state.batch).shape[1:]) if isinstance(state.batch, list | tuple) else ()
        source = None if cost is None or cost.multiply_adds is None else cost.multiply_adds
        key = (source, shape)
        if key not in self._multiply_adds:
            if source is not None:
                self._multiply_adds[key] = source(shape)
            else:
                student = plain(state.model)
                countable = shape and not isinstance(student, ComposerModel)
                self._multiply_adds[key] = multiply_adds(student, shape) if countable else 0
        return self._multiply_adds[key]

    def _costs_now(self) -> list[Cost]:
        return [cost for algorithm in self._algorithms for cost in algorithm.costs()]
