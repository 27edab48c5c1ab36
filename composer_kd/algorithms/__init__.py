"""Composer algorithms, one folder each."""

from composer_kd.algorithms.adversarial_recycling import AdversarialRecycling
from composer_kd.algorithms.born_again import BornAgain
from composer_kd.algorithms.distillation import Distillation
from composer_kd.algorithms.label_refinery import LabelRefinery
from composer_kd.algorithms.loss_curriculum import LossCurriculum
from composer_kd.algorithms.oracle_kd import OracleKD
from composer_kd.algorithms.teacher_mixup import TeacherMixupKD
from composer_kd.algorithms.warm_start import WarmStart
from composer_kd.core.registry import Registry

__all__ = [
    'ALGORITHMS',
    'AdversarialRecycling',
    'BornAgain',
    'Distillation',
    'LabelRefinery',
    'LossCurriculum',
    'OracleKD',
    'TeacherMixupKD',
    'WarmStart',
]

ALGORITHMS: Registry[type] = Registry('algorithms')
ALGORITHMS.add('Distillation', Distillation, 'teachers, a mix, a loss and a schedule: the mechanism behind all methods')
ALGORITHMS.add('TeacherMixupKD', TeacherMixupKD, 'CE + MSE to a linear combination of earlier iterations of the model')
ALGORITHMS.add('OracleKD', OracleKD, 'CE + KL to the average of those teachers that are right about the sample')
ALGORITHMS.add(
    'BornAgain', BornAgain, 'its former self teaches the same architecture, by the method ban, ban+l, cwtm or dkpp'
)
ALGORITHMS.add('LabelRefinery', LabelRefinery, 'KL to what the model before says of the very same crop, no label')
ALGORITHMS.add('LossCurriculum', LossCurriculum, 'losses of samples, stored or its own, decide what an epoch trains on')
ALGORITHMS.add(
    'WarmStart', WarmStart, 'begin at the weights of an earlier iteration, as they are or shrunk and perturbed'
)
ALGORITHMS.add(
    'AdversarialRecycling',
    AdversarialRecycling,
    'train on adversarial examples, kept to begin the next attack at or to be replayed',
)
