"""Where target outputs come from, and how several become one."""

from composer_kd.teachers.base import BaseTeacher, Outputs
from composer_kd.teachers.factory import Teacher
from composer_kd.teachers.features import FeatureTap
from composer_kd.teachers.mix import MIXES, Mix, make_mix

__all__ = ['MIXES', 'BaseTeacher', 'FeatureTap', 'Mix', 'Outputs', 'Teacher', 'make_mix']
