"""A run directory that lies elsewhere: its files are fetched when they are asked for, and believed once verified."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from composer_kd.archive.manifest import Manifest, damage, inside, read_manifest
from composer_kd.archive.run_dir import RunDir
from composer_kd.core.errors import UserError
from composer_kd.storage.fetch import Fetcher, default_cache, is_remote

__all__ = ['RemoteRun', 'run_at']

_MANIFEST = 'archive/manifest.json'


def run_at(where: str | os.PathLike[str] | RunDir) -> RunDir:
    """The run directory at a path or at the URL of a remote that Streaming knows."""
    if isinstance(where, RunDir):
        return where
    where = os.fspath(where)
    return RemoteRun(where) if is_remote(where) else RunDir(where)


class RemoteRun(RunDir):
    """A run directory on a remote; it can be read and not written.

    :attr:`path` is the folder of its downloads. The manifest is fetched once for each object (and anew by
    :meth:`refresh`), everything that it lists is compared with it.

    Args:
        url: As ``s3://bucket/runs/gen0`` or ``file:///mnt/runs/gen0``.
        cache: Where downloads lie; ``None``: ``$COMPOSER_KD_CACHE``, else ``~/.cache/composer_kd``.
    """

    def __init__(self, url: str, cache: Path | None = None):
        self.url = url.rstrip('/')
        self._fetcher = Fetcher(self.url, cache or default_cache())
        self._here: set[str] = set()
        super().__init__(self._fetcher.folder)

    def __repr__(self) -> str:
        return f'RemoteRun({self.url!r})'

    def __str__(self) -> str:
        return self.url

    def lock(self) -> AbstractContextManager[None]:
        self.refuse_to_write()

    def write_config(self, config: Mapping[str, Any]) -> None:
        self.refuse_to_write()

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        self.refuse_to_write()

    def refuse_to_write(self) -> NoReturn:
        raise UserError(f'{self.url}: what lies on a remote is only read; copy the run here to write into it')

    @property
    def config_file(self) -> Path:
        return self._file('run.yaml')

    @property
    def weights_file(self) -> Path:
        return self._file('weights.safetensors')

    @property
    def metrics_file(self) -> Path:
        return self._file('metrics.jsonl')

    @property
    def manifest_file(self) -> Path:
        if _MANIFEST not in self._here:
            self._fetch_manifest()
            self._here.add(_MANIFEST)
        return self.path / _MANIFEST

    def refresh(self) -> None:
        """Ask the remote again: what was fetched may have been replaced there."""
        self._here.clear()

    def fetch_listed(self, manifest: Manifest, name: str) -> Path:
        """The local path of a file, fetched unless it is here and is what the manifest says."""
        inside(self.path, name, self.url)
        try:
            return self._fetcher.fetch(name, lambda path: damage(path, manifest.files[name]))
        except FileNotFoundError as error:
            raise UserError(f'{error}; the manifest there lists it: restore it') from None

    def verify(self) -> Manifest:
        """Fetch every file that the manifest lists, anew, and compare it; the first wrong one is named."""
        self._require()
        manifest = read_manifest(self.path)
        for name in manifest.files:
            # It is the copy there that is asked about, not one that was fetched before.
            inside(self.path, name, self.url).unlink(missing_ok=True)
            self.fetch_listed(manifest, name)
        return manifest

    def _require(self) -> None:
        if not self.manifest_file.is_file():
            raise UserError(f'{self.url}: no finished run is there, it has no {_MANIFEST}; correct the address')
        super()._require()

    def _file(self, name: str) -> Path:
        """A file that is fetched on first use; one that the remote does not have is not there."""
        local = self.path / name
        if name not in self._here and self.manifest_file.is_file():
            manifest = read_manifest(self.path)
            if name in manifest.files:
                self.fetch_listed(manifest, name)
                self._here.add(name)
        return local

    def _fetch_manifest(self) -> None:
        """A damaged one is fetched once more; then it is the remote's own."""
        local = self.path / _MANIFEST
        for last in (False, True):
            try:
                self._fetcher.fetch(_MANIFEST)
                read_manifest(self.path)
                return
            except FileNotFoundError:
                return
            except UserError as error:
                if last or not local.is_file():
                    local.unlink(missing_ok=True)
                    raise UserError(str(error).replace(str(local), f'{self.url}/{_MANIFEST}')) from None
