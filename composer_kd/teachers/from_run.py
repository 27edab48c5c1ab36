"""A run directory as a teacher: the model that it describes, its weights, and the normalisation it was trained with."""

from __future__ import annotations

from pathlib import Path

from composer_kd.archive.manifest import read_manifest
from composer_kd.archive.run_dir import RunDir
from composer_kd.errors import UserError
from composer_kd.models.section import build_model
from composer_kd.models.weights import load_into, weights_hash
from composer_kd.teachers.live import LiveTeacher

__all__ = ['RunTeacher', 'teacher_from_run']


class RunTeacher(LiveTeacher):
    """A live teacher that knows the run it comes from."""

    def __init__(self, path: Path, module, name, normalization, accuracy: float | None):
        super().__init__(module, name, normalization)
        self.path = path
        self.accuracy = accuracy

    def __repr__(self) -> str:
        return f'Teacher.from_run({str(self.path)!r})'
