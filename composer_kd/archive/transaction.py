"""A change of an archive, in the order that makes it one moment: new files, the manifest, then what nobody names."""

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
from composer_kd.archive.tables import KINDS, is_table
from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import refuse_links_out
from composer_kd.storage.locks import locked

__all__ = ['free_name', 'held', 'replace_record', 'transaction']


@contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Hold the archive's lock; other writers wait.

    A writer that waits for itself waits for ever: no block in here holds another.
    """
    refuse_links_out(run_dir, 'archive')
    with locked(run_dir / 'archive' / '.lock'):
        yield


@contextmanager
def transaction(run_dir: Path) -> Iterator[Manifest]:
    """Hold the lock; at the end, a bad one too, what the manifest on the disk does not name is removed."""
    with held(run_dir):
        try:
            yield read_manifest(run_dir)
        finally:
            _sweep(run_dir)


def free_name(name: str, manifest: Manifest) -> str:
    """``name``, or ``name`` with a number where the manifest names that file: what it names is never touched."""
    free, count = name, 0
    while free in manifest.files:
        count += 1
        free = name.replace('.safetensors', f'-{count}.safetensors')
    return free


def replace_record(run_dir: Path, manifest: Manifest, record: ArchiveRecord, written: Iterable[str]) -> None:
    """The moment in which it happens: one manifest takes the place of another.

    Args:
        run_dir: The run directory.
        manifest: The one that is there.
        record: What the archive holds from now on.
        written: Those of its files that are new; only these are hashed.
    """
    named = set(record.files)
    kept = {name: entry for name, entry in manifest.files.items() if not is_table(name) or name in named}
    files = {**kept, **file_records(run_dir, written)}
    write_manifest(run_dir, manifest.model_copy(update={'archive': record, 'files': files}))


def _sweep(run_dir: Path) -> None:
    """Remove tables without a name in the manifest, and what killed writers left half-written."""
    with suppress(UserError, OSError):  # A manifest that cannot be read does not say what is of use: all stays.
        named = read_manifest(run_dir).files
        for folder in ('archive', *(f'archive/{kind}' for kind in KINDS)):
            for path in (run_dir / folder).glob('*'):
                name = f'{folder}/{path.name}'
                half_written = path.name.startswith('.') and path.suffix == '.tmp'
                if half_written or (is_table(name) and name not in named):
                    inside(run_dir, name, 'the archive').unlink()
