"""Core BornAgain class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer_kd.algorithms.distillation.distillation import Distillation, TeacherLike
from composer_kd.core.options import one_of
from composer_kd.core.schedule import Schedule

__all__ = ['BornAgain']

# What each method is as a choice of Distillation's parts. All compare at temperature 1.
_SOFT = {'loss': {'name': 'soft_ce', 'temperature': 1.0}}
METHODS: dict[str, dict[str, Any]] = {
    'ban': {**_SOFT, 'mix': 'uniform', 'label_weight': 0.0},
    'ban+l': {**_SOFT, 'mix': 'uniform', 'label_weight': 1.0},
    'cwtm': {'loss': 'cwtm', 'mix': 'uniform', 'label_weight': 0.0},
    'dkpp': {**_SOFT, 'mix': 'permuted', 'label_weight': 0.0},
}


class BornAgain(Distillation):
    """Train the same architecture anew, taught by its former self (`Furlanello et al, 2018
    <https://arxiv.org/abs/1805.04770>`_).

    ============ =====================================================================================
    ``'ban'``    the teacher's probabilities alone, no label: ``CE(p_t, p_s)``
    ``'ban+l'``  both: ``CE(y, p_s) + CE(p_t, p_s)``
    ``'cwtm'``   the label alone, samples weighted by the teacher's top probability
    ``'dkpp'``   the teacher's probabilities, all but the top one shuffled among the classes
    ============ =====================================================================================

    The last two are controls: what is left of the teacher is how sure it was of a sample, or how it spread the rest.

    Args:
        teachers: The generation before, or several of them; as in :class:`.Distillation`.
        method: One of the above, in small letters or large ones. Default: ``'ban'``.
        schedule: As in :class:`.Distillation`. Default: ``'always'``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import BornAgain
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='200ep',
                algorithms=[BornAgain(teachers=['runs/ban1'])],
            )
    """

    def __init__(
        self,
        teachers: Sequence[TeacherLike] | TeacherLike,
        method: str = 'ban',
        schedule: str | Schedule = 'always',
    ):
        parts = METHODS[one_of(str(method).lower(), METHODS, 'BornAgain: method')]
        super().__init__(teachers=teachers, schedule=schedule, **parts)
