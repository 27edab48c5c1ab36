"""Distillation: teachers, a mix, a loss and a schedule. See the folder's README."""

from composer_kd.algorithms.distillation.distillation import Distillation

__all__ = ['Distillation']
