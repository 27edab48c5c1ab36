"""WarmStart: a training begins at the weights of an earlier iteration. See the folder's README."""

from composer_kd.algorithms.warm_start.warm_start import WarmStart

__all__ = ['WarmStart']
