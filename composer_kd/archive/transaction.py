"""Atomic changes of an archive: new files are written, then the manifest, then unnamed files are removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from composer_kd.archive.manifest import (
    ArchiveRecord,
    Manifest,
    file_records,
    inside,
    read_manifest,
    write_manifest,
)
from composer_kd.archive.table import KINDS, is_table
from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import refuse_links_out
from composer_kd.storage.locks import locked

__all__ = ['archive_lock', 'replace_record', 'transaction', 'unused_name']


@contextmanager
def archive_lock(run_dir: Path) -> Iterator[None]:
    """Hold the archive's lock; other writers wait. Blocks must not nest: a writer would wait for itself for ever."""
    refuse_links_out(run_dir, 'archive')
    with locked(run_dir / 'archive' / '.lock'):
        yield


@contextmanager
def transaction(run_dir: Path) -> Iterator[Manifest]:
    """Hold the lock and yield the manifest; at the end, also after an error, remove tables that it does not name."""
    with archive_lock(run_dir):
        try:
            yield read_manifest(run_dir)
        finally:
            _sweep(run_dir)


def unused_name(name: str, manifest: Manifest) -> str:
    """Return ``name``, with a number if the manifest lists that file: a listed file is never overwritten."""
    unused, count = name, 0
    while unused in manifest.files:
        count += 1
        unused = name.replace('.safetensors', f'-{count}.safetensors')
    return unused


def replace_record(run_dir: Path, manifest: Manifest, record: ArchiveRecord, written: Iterable[str]) -> None:
    """Replace the manifest's record of the archive, which makes the change take effect.

    Args:
        run_dir: The run directory.
        manifest: The current manifest.
        record: The new record of the archive.
        written: The new files, which are hashed.
    """
    named = set(record.files)
    unchanged = {name: entry for name, entry in manifest.files.items() if not is_table(name) or name in named}
    files = {**unchanged, **file_records(run_dir, written)}
    write_manifest(run_dir, manifest.model_copy(update={'archive': record, 'files': files}))


def _sweep(run_dir: Path) -> None:
    """Remove tables that the manifest does not list, and files that killed writers left half-written."""
    with suppress(UserError, OSError):  # If the manifest cannot be read, nothing is removed.
        named = read_manifest(run_dir).files
        for folder in ('archive', *(f'archive/{kind}' for kind in KINDS)):
            for path in (run_dir / folder).glob('*'):
                name = f'{folder}/{path.name}'
                half_written = path.name.startswith('.') and path.suffix == '.tmp'
                if half_written or (is_table(name) and name not in named):
                    inside(run_dir, name, 'the archive').unlink()
