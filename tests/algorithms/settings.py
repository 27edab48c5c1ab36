"""The settings table: a row here enrols an algorithm in all common tests of ``test_common.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from composer.core import Algorithm, DataSpec
from torch.utils.data import DataLoader

from composer_kd import (
    AdversarialRecycling,
    BornAgain,
    Distillation,
    LabelRefinery,
    LossCurriculum,
    OracleKD,
    TeacherMixupKD,
    WarmStart,
)
from tests.algorithms.common import (
    keyed_loader,
    loader,
    net,
    pixel_loader,
    recorded_run,
    run_with_examples,
    trained_net,
)


@dataclass(frozen=True)
class Setting:
    """An algorithm, made anew for every trainer, and what it is trained on.

    Args:
        make: Makes the algorithm.
        train_data: ``loader`` gives batches (x, y); ``keyed_loader`` (x, y, key), for what needs to know its samples;
            ``pixel_loader`` the same out of 8-bit pixels.
        without_batch_norm: Makes it for a student without BatchNorm, where ``make`` does not serve both.
        of_the_ranks: Why two ranks are not one: what compares the samples of a batch sees those of its rank.
    """

    make: Callable[[], Algorithm]
    train_data: Callable[[], DataLoader | DataSpec] = loader
    without_batch_norm: Callable[[], Algorithm] | None = None
    of_the_ranks: str = ''


# What an algorithm is called in a test's name.
SETTINGS: dict[str, Setting] = {
    'TeacherMixupKD': Setting(lambda: TeacherMixupKD(teachers=[trained_net(11), trained_net(12)])),
    'TeacherMixupKD-weights-every-2nd-epoch': Setting(
        lambda: TeacherMixupKD(teachers=[trained_net(11), trained_net(12)], mix=[0.25, 0.75], schedule='every 2ep')
    ),
    'TeacherMixupKD-dirichlet': Setting(
        lambda: TeacherMixupKD(teachers=[trained_net(11), trained_net(12)], mix='dirichlet')
    ),
    'TeacherMixupKD-dirichlet-per-sample': Setting(
        lambda: TeacherMixupKD(
            teachers=[trained_net(11), trained_net(12)], mix={'name': 'dirichlet', 'alpha': 0.4, 'per': 'sample'}
        ),
        of_the_ranks='without keys a sample is known by its rank and place, so that other weights are drawn',
    ),
    'TeacherMixupKD-random-one': Setting(
        lambda: TeacherMixupKD(
            teachers=[trained_net(11), trained_net(12)], mix='random_one', schedule='first 0.5dur, cosine decay'
        )
    ),
    'Distillation-kl': Setting(
        lambda: Distillation(teachers=[trained_net(11)], loss='kl', temperature=2.0, label_weight=0.5)
    ),
    'Distillation-soft-ce-standardized': Setting(
        # At 2.0 a ReLU of the student's lies so near its kink that the order of two sums decides.
        lambda: Distillation(teachers=[trained_net(11)], loss={'name': 'soft_ce', 'temperature': 3.0}, standardize=True)
    ),
    'Distillation-kl-standardized': Setting(
        lambda: Distillation(
            teachers=[trained_net(11)], temperature=2.0, label_weight=0.1, kd_weight=2.0, standardize=True
        )
    ),
    'Distillation-hard': Setting(lambda: Distillation(teachers=[trained_net(11)], loss='hard', kd_weight=0.5)),
    'Distillation-until-overtaken': Setting(
        lambda: Distillation(teachers=[trained_net(11)], loss='mse', schedule='until overtaken')
    ),
    'Distillation-dkd-warmed-up': Setting(
        lambda: Distillation(teachers=[trained_net(11)], loss='dkd', kd_weight='0 to 0.5 until 1ep')
    ),
    'Distillation-dist': Setting(
        lambda: Distillation(teachers=[trained_net(11)], loss='dist', kd_weight=0.2),
        of_the_ranks='it compares the samples of a batch',
    ),
    'Distillation-learned-temperature': Setting(
        lambda: Distillation(teachers=[trained_net(11)], temperature={'learned': {'start': 3.0}}, mix='confidence')
    ),
    'Distillation-falling-temperature': Setting(
        lambda: Distillation(teachers=[trained_net(11)], temperature='8 to 1', kd_weight=0.9)
    ),
    'Distillation-falling-label-weight': Setting(
        lambda: Distillation(teachers=[trained_net(11)], label_weight='1 to 0.1 until 2ep, cosine')
    ),
    'OracleKD': Setting(lambda: OracleKD(teachers=[trained_net(11, steps=3), trained_net(12, steps=4)])),
    'BornAgain': Setting(lambda: BornAgain(teachers=[trained_net(11)])),
    'BornAgain-with-labels': Setting(lambda: BornAgain(teachers=[trained_net(11)], method='ban+l')),
    'BornAgain-cwtm': Setting(
        lambda: BornAgain(teachers=[trained_net(11)], method='cwtm'),
        of_the_ranks='it normalises its weights over the samples of a batch',
    ),
    'BornAgain-dkpp': Setting(lambda: BornAgain(teachers=[trained_net(11)], method='dkpp'), keyed_loader),
    'LabelRefinery': Setting(lambda: LabelRefinery(teachers=[trained_net(11)])),
    'LossCurriculum': Setting(lambda: LossCurriculum(recorded_run()), keyed_loader),
    'LossCurriculum-weights': Setting(
        lambda: LossCurriculum(recorded_run(), statistic='last', order='hard_first', use='weights'), keyed_loader
    ),
    'LossCurriculum-infobatch': Setting(lambda: LossCurriculum(mode='infobatch', full_from='3ep'), keyed_loader),
    'LossCurriculum-rho': Setting(lambda: LossCurriculum(recorded_run(), mode='rho', keep=0.6), keyed_loader),
    'AdversarialRecycling': Setting(lambda: AdversarialRecycling(epsilon=8), pixel_loader),
    'AdversarialRecycling-part-of-the-batch-every-2nd-step': Setting(
        lambda: AdversarialRecycling(
            from_=run_with_examples(), share=0.7, every=2, keep='strongest', norm='l2', epsilon=64, budget=100
        ),
        pixel_loader,
    ),
    'AdversarialRecycling-reset': Setting(
        lambda: AdversarialRecycling(from_=run_with_examples(), step_size=0.4, reset='8ba'), pixel_loader
    ),
    'AdversarialRecycling-fresh': Setting(
        lambda: AdversarialRecycling(mode='fresh', steps=3, targeted=True, start='image'), pixel_loader
    ),
    'AdversarialRecycling-replay': Setting(
        lambda: AdversarialRecycling(mode='replay', from_=run_with_examples(), share=0.5), pixel_loader
    ),
    'WarmStart': Setting(
        lambda: WarmStart(trained_net(11, steps=3)),
        without_batch_norm=lambda: WarmStart(net(11, batch_norm=False)),
    ),
    'WarmStart-shrink-perturb': Setting(
        lambda: WarmStart(trained_net(11, steps=3), shrink=0.4, perturb=0.1),
        without_batch_norm=lambda: WarmStart(net(11, batch_norm=False), shrink=0.4, perturb=0.1),
    ),
}
