"""A run directory as a teacher: its net, its weights, and the normalisation that it was trained with."""

from __future__ import annotations

from pathlib import Path

from composer_kd.archive.run_dir import RunDir
from composer_kd.models.finished_run import FinishedRun
from composer_kd.teachers.live import LiveTeacher, Normalization

__all__ = ['RunTeacher']


class RunTeacher(LiveTeacher):
    """A live teacher that knows which run it comes from."""

    def __init__(self, run: FinishedRun, name: str | None = None, data_normalization: Normalization | None = None):
        trained_with = run.manifest.data.normalization
        normalization = (trained_with.mean, trained_with.std)
        super().__init__(run.net(), name or Path(str(run)).name, normalization, data_normalization)
        self._run = run.directory
        self.path = run.path

    @property
    def run(self) -> RunDir:
        return self._run

    def __repr__(self) -> str:
        return f'Teacher.from_run({str(self.path)!r})'
