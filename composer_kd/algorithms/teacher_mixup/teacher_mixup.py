"""Core TeacherMixupKD class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from composer_kd.algorithms.distillation.distillation import Distillation, TeacherLike
from composer_kd.core.schedule import Schedule
from composer_kd.teachers.mix import Mix

__all__ = ['TeacherMixupKD']


class TeacherMixupKD(Distillation):
    """Teach a new iteration of a model with a linear combination of the earlier iterations' logits.

    The loss of a step is ``CE(s, y) + MSE(s, sum_k w_k t_k)`` with the squared error averaged over samples and classes:
    :class:`.Distillation` with ``loss='mse'``.

    Args:
        teachers: The earlier iterations: modules, paths of run directories, or :class:`composer_kd.Teacher` objects.
        mix: ``'uniform'``, a list of weights, ``'dirichlet'`` (new random weights for every batch; with options
            ``{'name': 'dirichlet', 'alpha': 1.0, 'per': 'sample'}`` for every sample) or ``'random_one'``.
            Default: ``'uniform'``.
        schedule: ``'always'``, ``'every 10ep'`` and ``'first 20ep'`` are the ones that were studied; all of
            :class:`composer_kd.Schedule` work. Default: ``'always'``.
        label_weight: The weight of the label loss while the schedule is on; as in :class:`.Distillation`.
            Default: ``1.0``.
        kd_weight: The weight of the distillation term, likewise. Default: ``1.0``.
        loss: What compares student and target; as in :class:`.Distillation`. Default: ``'mse'``.
        standardize: As in :class:`.Distillation`. Default: ``False``.
        temperature: As in :class:`.Distillation`; ``'mse'`` has none. Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import TeacherMixupKD
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='200ep',
                algorithms=[TeacherMixupKD(teachers=['runs/gen0', 'runs/gen1'], schedule='every 10ep')],
            )
    """

    def __init__(
        self,
        teachers: Sequence[TeacherLike] | TeacherLike,
        mix: str | Sequence[float] | dict[str, Any] | Mix = 'uniform',
        schedule: str | Schedule = 'always',
        label_weight: float | str = 1.0,
        kd_weight: float | str = 1.0,
        loss: str | dict[str, Any] | Callable[..., Tensor] = 'mse',
        standardize: bool = False,
        temperature: float | str | dict[str, Any] | None = None,
    ):
        super().__init__(
            teachers=teachers,
            mix=mix,
            loss=loss,
            schedule=schedule,
            label_weight=label_weight,
            kd_weight=kd_weight,
            standardize=standardize,
            temperature=temperature,
        )
