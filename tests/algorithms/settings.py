"""The settings table: a row here enrols an algorithm in all common tests of ``test_common.py``."""

from __future__ import annotations

from collections.abc import Callable

from composer.core import Algorithm

from composer_kd import Distillation, TeacherMixupKD
from tests.algorithms.common import trained_net

# What an algorithm is called in a test's name -> how it is made, anew for every trainer.
SETTINGS: dict[str, Callable[[], Algorithm]] = {
    'TeacherMixupKD': lambda: TeacherMixupKD(teachers=[trained_net(11), trained_net(12)]),
    'TeacherMixupKD-weights-every-2nd-epoch': lambda: TeacherMixupKD(
        teachers=[trained_net(11), trained_net(12)], mix=[0.25, 0.75], schedule='every 2ep'
    ),
    'TeacherMixupKD-dirichlet': lambda: TeacherMixupKD(teachers=[trained_net(11), trained_net(12)], mix='dirichlet'),
    'TeacherMixupKD-dirichlet-per-sample': lambda: TeacherMixupKD(
        teachers=[trained_net(11), trained_net(12)], mix={'name': 'dirichlet', 'alpha': 0.4, 'per': 'sample'}
    ),
    'TeacherMixupKD-random-one': lambda: TeacherMixupKD(
        teachers=[trained_net(11), trained_net(12)], mix='random_one', schedule='first 0.5dur, cosine decay'
    ),
    'Distillation-kl': lambda: Distillation(teachers=[trained_net(11)], loss='kl', temperature=2.0, label_weight=0.5),
    'Distillation-soft-ce-standardized': lambda: Distillation(
        teachers=[trained_net(11)], loss={'name': 'soft_ce', 'temperature': 2.0}, standardize=True
    ),
    'Distillation-until-overtaken': lambda: Distillation(
        teachers=[trained_net(11)], loss='mse', schedule='until overtaken'
    ),
}
