"""LossCurriculum: losses of samples decide what an epoch trains on. See the folder's README."""

from composer_kd.algorithms.loss_curriculum.loss_curriculum import LossCurriculum

__all__ = ['LossCurriculum']
