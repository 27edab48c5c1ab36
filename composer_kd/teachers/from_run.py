"""A run directory as a teacher: the model that it describes, its weights, and the normalisation it was trained with."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from composer_kd.archive.manifest import Manifest
from composer_kd.archive.remote import run_at
from composer_kd.archive.run_dir import RunDir
from composer_kd.core.errors import UserError
from composer_kd.models import build_model, load_weights
from composer_kd.models.weights import put_into, tensors_hash
from composer_kd.teachers.live import LiveTeacher, Normalization

__all__ = ['RunTeacher', 'finished_manifest', 'finished_weights', 'teacher_from_run']


class RunTeacher(LiveTeacher):
    """A live teacher that knows which run it comes from."""

    def __init__(self, run: RunDir, name: str | None = None, data_normalization: Normalization | None = None):
        manifest = finished_manifest(run)
        config = run.read_config()
        if 'model' not in config:
            raise UserError(f'{run.config_file}: there is no model in it; restore the file')
        data = manifest.data
        module = build_model(config['model'], data.num_classes, data.shape, where=f'{run.config_file}: model')
        put_into(module, finished_weights(run), str(run.weights_file))
        normalization = (data.normalization.mean, data.normalization.std)
        super().__init__(module, name or Path(str(run)).name, normalization, data_normalization)
        self._run = run
        self.path = run.path

    @property
    def run(self) -> RunDir:
        return self._run

    def __repr__(self) -> str:
        return f'Teacher.from_run({str(self.path)!r})'


def teacher_from_run(
    path: str | Path, name: str | None = None, data_normalization: Normalization | None = None
) -> RunTeacher:
    """The teacher in a run directory; one line if the run is not there, not finished or damaged."""
    return RunTeacher(run_at(path), name, data_normalization)


def finished_manifest(run: RunDir) -> Manifest:
    """The manifest of a run that has finished; one line for one that has not."""
    if not run.manifest_file.is_file() or not run.weights_file.is_file():
        run.load_weights()  # Says in one line what is missing: the directory, its configuration or its weights.
    manifest = run.manifest()
    if not manifest.finished:
        raise UserError(f'{run}: the run has not finished; run it to its end first')
    return manifest


def finished_weights(run: RunDir) -> dict[str, Tensor]:
    """The weights that a run ended with, compared with the hash in its manifest; one line where they are not."""
    manifest = finished_manifest(run)
    weights = load_weights(run.weights_file)
    if manifest.weights is None or tensors_hash(weights) != manifest.weights.hash:
        raise UserError(
            f'{run.weights_file}: damaged: these are not the weights that the run ended with; restore the file, or '
            f'remove {run} and run again'
        )
    return weights
