"""Changing a file of a finished run that is not one of its tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from composer_kd.archive.archive import Archive
from composer_kd.archive.manifest import Manifest, file_records
from composer_kd.archive.run_dir import RunDir

__all__ = ['unlisted']


@contextmanager
def unlisted(run: RunDir, name: str) -> Iterator[None]:
    """Take a file out of the manifest for the length of a ``with`` block, in which it changes, and then enter it anew.

    A kill at any moment leaves no manifest that says something else of the file than it holds.
    """
    archive = Archive(run)
    archive.update(lambda manifest: _with(run, manifest, name, ()))
    yield
    archive.update(lambda manifest: _with(run, manifest, name, (name,)))


def _with(run: RunDir, manifest: Manifest, name: str, instead: Sequence[str]) -> Manifest:
    others = {file: entry for file, entry in manifest.files.items() if file != name}
    return manifest.model_copy(update={'files': {**others, **file_records(run.path, instead)}})
