"""A finished run, opened once: its manifest and its configuration, and the net with the weights that it ended with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from composer_kd.archive.manifest import Manifest
from composer_kd.archive.remote import RemoteRun, run_at
from composer_kd.archive.run_dir import RunDir
from composer_kd.core.errors import UserError
from composer_kd.models.registry import build_model
from composer_kd.models.weights import load_tensors_into, load_weights, tensors_hash

__all__ = ['FinishedRun']


@dataclass(frozen=True)
class FinishedRun:
    """Pass on what was read of a finished run, so that nobody reads it twice; :meth:`open` makes one.

    Attributes:
        directory: Where it lies, here or on a remote.
        manifest: As it was when the run was opened; an :class:`.Archive` sees what others record meanwhile.
        config: Its resolved configuration.
    """

    directory: RunDir
    manifest: Manifest
    config: Mapping[str, Any]

    @classmethod
    def open(cls, run: str | os.PathLike[str] | RunDir, to_write: bool = False) -> FinishedRun:
        """Read manifest and configuration, both checked; one line says what a run lacks.

        Args:
            run: The run directory, here or on a remote that Streaming knows.
            to_write: Refuse a remote, which is only read.
        """
        directory = run_at(run)
        if to_write and isinstance(directory, RemoteRun):
            directory.refuse_to_write()
        return cls(directory, directory.finished_manifest(), directory.read_config())

    def __str__(self) -> str:
        return str(self.directory)

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def weights_hash(self) -> str:
        assert self.manifest.weights is not None
        return self.manifest.weights.hash

    def weights(self) -> dict[str, Tensor]:
        """Load the weights and compare them with the hash in the manifest."""
        file = self.directory.weights_file
        weights = load_weights(file)
        if tensors_hash(weights) != self.weights_hash:
            raise UserError(
                f'{file}: damaged: these are not the weights that the run ended with; restore the file, or remove '
                f'{self} and run again'
            )
        return weights

    def net(self) -> nn.Module:
        """Build the model that the configuration describes, with the run's weights in it."""
        if 'model' not in self.config:
            raise UserError(f'{self.directory.config_file}: there is no model in it; restore the file')
        data = self.manifest.data
        where = f'{self.directory.config_file}: model'
        module = build_model(self.config['model'], data.num_classes, data.shape, where=where)
        load_tensors_into(module, self.weights(), str(self.directory.weights_file))
        return module
