"""Core LabelRefinery class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer_kd.algorithms.distillation.distillation import Distillation, TeacherLike
from composer_kd.core.schedule import Schedule
from composer_kd.teachers.mix import Mix

__all__ = ['LabelRefinery']


class LabelRefinery(Distillation):
    """Replace the label of every crop by what the model before says of that crop (`Bagherinezhad et al, 2018
    <https://arxiv.org/abs/1805.02641>`_).

    The loss is ``KL(p_t(crop) || p_s(crop))`` alone: a small crop of an image often shows something other than the
    image's label says, and the refinery labels what is there. :class:`.Distillation` with ``loss='kl'`` at temperature
    1 and no label. Refineries chain: each model labels for the next, of whatever architecture.

    Args:
        teachers: The model before, or several; live, or recorded on the very crops that the student sees.
        mix: As in :class:`.Distillation`. Default: ``'uniform'``.
        schedule: As in :class:`.Distillation`; while it is off, the image's label teaches. Default: ``'always'``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import LabelRefinery
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='200ep',
                algorithms=[LabelRefinery(teachers=['runs/refined1'])],
            )
    """

    def __init__(
        self,
        teachers: Sequence[TeacherLike] | TeacherLike,
        mix: str | Sequence[float] | dict[str, Any] | Mix = 'uniform',
        schedule: str | Schedule = 'always',
    ):
        super().__init__(teachers=teachers, mix=mix, loss='kl', temperature=1.0, label_weight=0.0, schedule=schedule)
