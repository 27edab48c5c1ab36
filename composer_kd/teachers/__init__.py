"""Where target outputs come from, and how several become one."""

from composer_kd.teachers.base import Teacher
from composer_kd.teachers.mix import MIXES, Mix, make_mix

__all__ = ['MIXES', 'Mix', 'Teacher', 'make_mix']
