"""A run directory: where its files are, and what can be said about a run by looking at them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from composer_kd.archive.files import atomic_write, is_whole_zip, make_folder
from composer_kd.archive.jsonl import append_line, read_lines, rewrite_lines
from composer_kd.archive.kinds import is_table
from composer_kd.archive.lock import locked
from composer_kd.archive.manifest import Manifest, manifest_file, read_manifest, verify, verify_file
from composer_kd.errors import UserError

__all__ = ['RunDir']


class RunDir:
    """The directory of one run; it need not exist yet.

    Args:
        path: The folder, as a person wrote it: error lines repeat it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f'RunDir({str(self.path)!r})'

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config_file(self) -> Path:
        return self.path / 'run.yaml'

    @property
    def weights_file(self) -> Path:
        return self.path / 'weights.safetensors'

    @property
    def checkpoints(self) -> Path:
        return self.path / 'checkpoints'

    @property
    def metrics_file(self) -> Path:
        return self.path / 'metrics.jsonl'

    @property
    def manifest_file(self) -> Path:
        return manifest_file(self.path)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the directory for the length of a ``with`` block; whoever comes second, this process too, is refused."""
        make_folder(self.path)
        return locked(self.path / '.lock', str(self.path))

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration of the run."""
        self._require()
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding='utf-8'))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f'{self.config_file}: not YAML, the file is damaged; restore it') from error
        if not isinstance(config, dict):
            raise UserError(f'{self.config_file}: expected a mapping, the file is damaged; restore it')
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        atomic_write(self.config_file, text)

    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary for each finished epoch; a last line that was cut off is ignored."""
        return read_lines(self.metrics_file)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's line; it is on the disk when this returns. NaN and infinities become null."""
        append_line(self.metrics_file, record)

    def truncate_metrics(self, epoch: int) -> None:
        """Forget the epochs after ``epoch``, before a run is resumed from a checkpoint at its end."""
        lines = self.metrics()
        kept = [line for line in lines if line.get('epoch', 0) <= epoch]
        if len(kept) < len(lines):
            rewrite_lines(self.metrics_file, kept)

    @property
    def finished(self) -> bool:
        """Whether the manifest says so and the run's own files have the sizes that it says.

        Tables do not count: others may be recording into the archive at this moment, and replace some.
        """
        if not self.manifest_file.is_file():
            return False
        manifest = self.manifest()
        return manifest.finished and all(
            _size(self.path / name) == record.bytes for name, record in manifest.files.items() if not is_table(name)
        )

    def manifest(self) -> Manifest:
        self._require()
        return read_manifest(self.path)

    def verify(self) -> Manifest:
        """Compare every file that the manifest lists with its size and hash; the first wrong one is named."""
        self._require()
        return verify(self.path)

    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, or None: the one that Composer calls the latest, else the newest whole one."""
        for path in self._checkpoints():
            if is_whole_zip(path):
                return path
            warnings.warn(f'{path}: the checkpoint is damaged or was cut off; looking for an earlier one', stacklevel=2)
        return None

    def prune_checkpoints(self, keep: int) -> None:
        """Leave the newest ``keep`` checkpoints, all for -1: Composer counts those of its own process alone."""
        if keep >= 0:
            for path in list(self._checkpoints())[keep:]:
                path.unlink(missing_ok=True)

    def load_weights(self) -> dict[str, Tensor]:
        """The trained weights, compared with the manifest where there is one."""
        from composer_kd.models.weights import load_weights  # models/ writes through this package: no cycle at import

        self._require()
        if not self.weights_file.is_file():
            raise UserError(
                f'{self} has no {self.weights_file.name}: the run has not finished ({self._progress()}); '
                'run it to its end first'
            )
        if self.manifest_file.is_file() and self.manifest().finished:
            verify_file(self.path, self.manifest(), self.weights_file.name)
        return load_weights(self.weights_file)

    def _require(self) -> None:
        if not self.path.is_dir():
            raise UserError(f'{self}: no such run directory; train that run first, or correct the path')
        if not self.config_file.is_file():
            raise UserError(f'{self}: not a run directory, it has no {self.config_file.name}; correct the path')

    def _progress(self) -> str:
        done = max((line.get('epoch', 0) for line in self.metrics()), default=0)
        whole = re.fullmatch(r'(\d+)ep', str(self.read_config().get('max_duration', '')))
        return f'{done} of {whole[1]} epochs' if whole else f'{done} epochs so far'

    def _checkpoints(self) -> Iterator[Path]:
        latest = self.checkpoints / 'latest-rank0.pt'
        target = latest.resolve()
        if target.is_file():
            yield target if latest.is_symlink() else latest
        saved = [path for path in self.checkpoints.glob('*-rank0.pt') if path.is_file() and path != latest]
        others = [path for path in saved if path.resolve() != target]
        yield from sorted(others, key=_batch, reverse=True)


def _batch(checkpoint: Path) -> tuple[int, float]:
    """What orders checkpoints: the batch in Composer's ``ep{epoch}-ba{batch}-rank{rank}.pt``, else the time."""
    named = re.search(r'-ba(\d+)-', checkpoint.name)
    return int(named[1]) if named else -1, checkpoint.stat().st_mtime


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
