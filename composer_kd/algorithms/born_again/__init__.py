"""BornAgain: the same architecture, begun anew and taught by its former self. See the folder's README."""

from composer_kd.algorithms.born_again.born_again import BornAgain

__all__ = ['BornAgain']
