"""TeacherMixupKD: earlier iterations of a model teach the next one. See the folder's README."""

from composer_kd.algorithms.teacher_mixup.teacher_mixup import TeacherMixupKD

__all__ = ['TeacherMixupKD']
