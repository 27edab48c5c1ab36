"""LabelRefinery: the model before labels the very crop that the student sees. See the folder's README."""

from composer_kd.algorithms.label_refinery.label_refinery import LabelRefinery

__all__ = ['LabelRefinery']
