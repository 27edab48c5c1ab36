"""Pure tensor maths: torch in, torch out, nothing of Composer."""

from composer_kd.functional.attacks import fgsm, pgd, project, random_start, round_at_random
from composer_kd.functional.augment import augment, normalise
from composer_kd.functional.calibration import expected_calibration_error
from composer_kd.functional.colour import colour_jitter
from composer_kd.functional.counter import counter_hash, uniform
from composer_kd.functional.curriculum import pace, places, prune, share_weights, top_share, within_share
from composer_kd.functional.ensemble import average_logits, average_probabilities, right_counts
from composer_kd.functional.fidelity import agreement
from composer_kd.functional.losses import LOSSES, cwtm, dist, dkd, hard, kl, mse, soft_cross_entropy, standardize
from composer_kd.functional.mixing import (
    confidence_weights,
    dirichlet_weights,
    mix_outputs,
    oracle_mix,
    permute_dark_knowledge,
)
from composer_kd.functional.rand_augment import rand_augment
from composer_kd.functional.resized_crop import resized_crop
from composer_kd.functional.top_k import keep_top, spread_rest, to_half
from composer_kd.functional.uncrop import uncropped, visible
from composer_kd.functional.warm_start import shrink_perturb
from composer_kd.functional.worst_group import worst_group

__all__ = [
    'LOSSES',
    'agreement',
    'augment',
    'average_logits',
    'average_probabilities',
    'colour_jitter',
    'confidence_weights',
    'counter_hash',
    'cwtm',
    'dirichlet_weights',
    'dist',
    'dkd',
    'expected_calibration_error',
    'fgsm',
    'hard',
    'keep_top',
    'kl',
    'mix_outputs',
    'mse',
    'normalise',
    'oracle_mix',
    'pace',
    'permute_dark_knowledge',
    'pgd',
    'places',
    'project',
    'prune',
    'rand_augment',
    'random_start',
    'resized_crop',
    'right_counts',
    'round_at_random',
    'share_weights',
    'shrink_perturb',
    'soft_cross_entropy',
    'spread_rest',
    'standardize',
    'to_half',
    'top_share',
    'uncropped',
    'uniform',
    'visible',
    'within_share',
    'worst_group',
]
