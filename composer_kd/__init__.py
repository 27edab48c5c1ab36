"""Retraining should cost a fraction of training: recycle what earlier runs computed, in MosaicML Composer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer_kd.algorithms import (
        AdversarialRecycling,
        BornAgain,
        Distillation,
        LabelRefinery,
        LossCurriculum,
        OracleKD,
        TeacherMixupKD,
        WarmStart,
    )
    from composer_kd.archive import Archive
    from composer_kd.callbacks import (
        EvaluateAttacks,
        EvaluateDrifts,
        RecordAdversarial,
        RecordLogits,
        RecordLosses,
        RecordPredictions,
    )
    from composer_kd.core.errors import UserError
    from composer_kd.core.schedule import Schedule
    from composer_kd.runs.retrain import retrain
    from composer_kd.teachers import Teacher

__version__ = '0.1.0'
__all__ = [
    'AdversarialRecycling',
    'Archive',
    'BornAgain',
    'Distillation',
    'EvaluateAttacks',
    'EvaluateDrifts',
    'LabelRefinery',
    'LossCurriculum',
    'OracleKD',
    'RecordAdversarial',
    'RecordLogits',
    'RecordLosses',
    'RecordPredictions',
    'Schedule',
    'Teacher',
    'TeacherMixupKD',
    'UserError',
    'WarmStart',
    '__version__',
    'retrain',
]

# Public names are imported when they are first asked for: `composer-kd --help` need not wait for torch.
_HOMES = {
    'AdversarialRecycling': 'composer_kd.algorithms',
    'Archive': 'composer_kd.archive',
    'BornAgain': 'composer_kd.algorithms',
    'Distillation': 'composer_kd.algorithms',
    'LabelRefinery': 'composer_kd.algorithms',
    'LossCurriculum': 'composer_kd.algorithms',
    'OracleKD': 'composer_kd.algorithms',
    'TeacherMixupKD': 'composer_kd.algorithms',
    'WarmStart': 'composer_kd.algorithms',
    'RecordAdversarial': 'composer_kd.callbacks',
    'EvaluateDrifts': 'composer_kd.callbacks',
    'RecordLogits': 'composer_kd.callbacks',
    'RecordLosses': 'composer_kd.callbacks',
    'RecordPredictions': 'composer_kd.callbacks',
    'EvaluateAttacks': 'composer_kd.callbacks',
    'UserError': 'composer_kd.core.errors',
    'Schedule': 'composer_kd.core.schedule',
    'Teacher': 'composer_kd.teachers',
    'retrain': 'composer_kd.runs.retrain',
}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
