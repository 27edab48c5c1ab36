"""Core OracleKD class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from composer_kd.algorithms.distillation.distillation import Distillation, TeacherLike
from composer_kd.core.schedule import Schedule

__all__ = ['OracleKD']


class OracleKD(Distillation):
    """Teach each sample with the average of those teachers that are right about it (`Kang et al, 2020
    <https://arxiv.org/abs/1911.13019>`_).

    The loss of a sample is ``label_weight * CE + kd_weight * T^2 KL`` to the average logits of the teachers whose
    highest class is its label; and plain ``CE``, with weight 1, where no teacher is right. The share of such samples is
    logged as ``distill/label_only``. :class:`.Distillation` with ``mix='oracle'``.

    Args:
        teachers: Several earlier models, live or recorded; as in :class:`.Distillation`.
        loss: What compares student and target; as in :class:`.Distillation`. Default: ``'kl'``.
        schedule: As in :class:`.Distillation`. Default: ``'always'``.
        label_weight: The weight of the label loss where a teacher is right. Default: ``0.1``.
        kd_weight: The weight of the distillation term. Default: ``0.9``.
        standardize: As in :class:`.Distillation`. Default: ``False``.
        temperature: As in :class:`.Distillation`. Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import OracleKD
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='200ep',
                algorithms=[OracleKD(teachers=['runs/gen0', 'runs/gen1', 'runs/gen2'])],
            )
    """

    def __init__(
        self,
        teachers: Sequence[TeacherLike] | TeacherLike,
        loss: str | dict[str, Any] | Callable[..., Tensor] = 'kl',
        schedule: str | Schedule = 'always',
        label_weight: float | str = 0.1,
        kd_weight: float | str = 0.9,
        standardize: bool = False,
        temperature: float | str | dict[str, Any] | None = None,
    ):
        super().__init__(
            teachers=teachers,
            mix='oracle',
            loss=loss,
            schedule=schedule,
            label_weight=label_weight,
            kd_weight=kd_weight,
            standardize=standardize,
            temperature=temperature,
        )
