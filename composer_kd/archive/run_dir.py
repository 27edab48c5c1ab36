"""A run directory: where its files are, and what can be said about a run by looking at them."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from composer_kd.archive.manifest import Manifest, inside, manifest_file, read_manifest, verify
from composer_kd.archive.table import is_table
from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import atomic_write, is_whole_zip, make_folder, refuse_links_out, xxh3_of
from composer_kd.storage.jsonl import append_line, read_lines, rewrite_lines
from composer_kd.storage.locks import lock_or_refuse

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
    def _hashes_file(self) -> Path:
        return self.checkpoints / 'hashes.json'

    @property
    def manifest_file(self) -> Path:
        return manifest_file(self.path)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the directory for the length of a ``with`` block; whoever comes second, this process too, is refused."""
        make_folder(self.path)
        refuse_links_out(self.path, 'archive', 'checkpoints', 'predictions')
        return lock_or_refuse(self.path / '.lock', str(self.path))

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
        if not self.manifest_file.is_file() or not self.config_file.is_file():
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
        hashes = self.checkpoint_hashes()
        for path in self._checkpoints():
            inside(self.path, str(path.relative_to(self.path)), str(self))
            known = hashes.get(path.name)
            if known is not None and xxh3_of(path) == known:
                return path
            if is_whole_zip(path):
                if known is not None:
                    raise UserError(
                        f'{path}: not the checkpoint that was written here (its hash differs); restore it, or '
                        f'remove it to continue from an earlier one'
                    )
                return path
            warnings.warn(f'{path}: the checkpoint is damaged or was cut off; looking for an earlier one', stacklevel=2)
        return None

    def checkpoint_hashes(self) -> dict[str, str]:
        """The hashes of checkpoints by their names, of those that were noted; a kill may leave one that was not."""
        try:
            found = json.loads(self._hashes_file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            found = None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise UserError(f'{self._hashes_file}: damaged: not hashes by name; restore it, or remove it')
        return found

    def note_checkpoint(self, path: Path) -> None:
        """Write down the hash of a checkpoint, and forget those that are gone."""
        hashes = {name: value for name, value in self.checkpoint_hashes().items() if (path.parent / name).is_file()}
        atomic_write(self._hashes_file, json.dumps({**hashes, path.name: xxh3_of(path)}, indent=1) + '\n')

    def forget_checkpoints(self, after_batch: int) -> None:
        """Forget the hashes of checkpoints after a batch, before they are written again."""
        hashes = self.checkpoint_hashes()
        kept = {name: value for name, value in hashes.items() if _batch_in(name) <= after_batch}
        if len(kept) < len(hashes):
            atomic_write(self._hashes_file, json.dumps(kept, indent=1) + '\n')

    def prune_checkpoints(self, keep: int) -> None:
        """Leave the newest ``keep`` checkpoints, all for -1: Composer counts those of its own process alone."""
        if keep >= 0:
            for path in list(self._checkpoints())[keep:]:
                path.unlink(missing_ok=True)

    def finished_manifest(self) -> Manifest:
        """Read the manifest of a run that has finished; one line says what another one lacks."""
        self._require()
        if not self.weights_file.is_file():
            raise UserError(
                f'{self} has no {self.weights_file.name}: the run has not finished ({self._progress()}); '
                'run it to its end first'
            )
        manifest = read_manifest(self.path) if self.manifest_file.is_file() else None
        if manifest is None or not manifest.finished:
            raise UserError(f'{self}: the run has not finished; run it to its end first')
        return manifest

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
        # Composer's link is to a name beside it; whatever it names, nothing outside of this folder is looked at.
        newest = self.checkpoints / os.readlink(latest) if latest.is_symlink() else latest
        if newest.is_file() or newest.is_symlink():
            yield newest
        saved = [path for path in self.checkpoints.glob('*-rank0.pt') if path.is_file()]
        yield from sorted((path for path in saved if path not in (latest, newest)), key=_batch, reverse=True)


def _batch(checkpoint: Path) -> tuple[int, float]:
    """What orders checkpoints: the batch in Composer's ``ep{epoch}-ba{batch}-rank{rank}.pt``, else the time."""
    return _batch_in(checkpoint.name), checkpoint.stat().st_mtime


def _batch_in(name: str) -> int:
    named = re.search(r'-ba(\d+)-', name)
    return int(named[1]) if named else -1


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
