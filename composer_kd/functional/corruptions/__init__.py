"""The 15 corruptions of the CIFAR-C protocol at severities 1 to 5, computed on uint8 tensors in batches."""

from composer_kd.functional.corruptions.corrupt import CORRUPTIONS, SEVERITIES, CorruptionKind, corrupt, severities_of
from composer_kd.functional.corruptions.draws import CORRUPTIONS_VERSION

__all__ = ['CORRUPTIONS', 'CORRUPTIONS_VERSION', 'SEVERITIES', 'CorruptionKind', 'corrupt', 'severities_of']
