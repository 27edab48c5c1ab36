"""The archive of a run: what it computed for each sample, kept for later runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from composer_kd.archive.manifest import (
    ArchiveRecord,
    FileRecord,
    Manifest,
    TableRecord,
    file_records,
    inside,
    parse_manifest,
    verify_file,
    write_manifest,
)
from composer_kd.archive.remote import RemoteRun, run_at
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import KINDS, SAMPLES, ArchiveTable, kind_of, merge_table, read_table, write_table
from composer_kd.archive.transaction import archive_lock, replace_record, transaction, unused_name
from composer_kd.core.errors import UserError

__all__ = ['Archive', 'manifest_update']

T = TypeVar('T')


_HOW_TO_RECORD = {
    'loss': 'losses; train it with `archive: {losses: true}`, or with the callback RecordLosses',
    'logits': 'logits; record them with `composer-kd record RUN`',
    'adversarial': 'adversarial examples; train it with AdversarialRecycling and `archive: {adversarial: true}`',
}


class Archive:
    """Read and write the per-sample tables of one run directory: losses, logits and adversarial deltas.

    A table has a row for each sample of :meth:`samples`, without those that were added after it was written, and a
    ``seen`` column. A table is verified when it is opened. Writing is a transaction under a lock: new files are
    written, then the manifest, then the files that it no longer names are removed; a process that is killed anywhere
    leaves the old state. Reading needs no lock, and sees the old state or the new one.

    Args:
        run: The run directory: a path, or the URL of one on a remote that Streaming knows (``s3://bucket/runs/gen0``),
            which is only read: its files are downloaded on first use and verified.

    Example:
        >>> from composer_kd import Archive
        >>> from composer_kd.archive import Samples, aligned
        >>> archive = Archive('runs/gen0')
        >>> archive.epochs, archive.views
        ([0, 1, 2], [0, 1, 2, 3])
        >>> rows = archive.samples().rows_by_content(Samples.of(dataset))  # of my data, -1 for unknown samples
        >>> last = aligned(archive.table('loss', 2), rows)
        >>> last['loss'][last['seen'] == 1].mean()
        tensor(1.7310)
    """

    def __init__(self, run: str | Path | RunDir):
        self.run = run_at(run)
        self._parsed: tuple[bytes, Manifest] | None = None
        self._opened: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def __repr__(self) -> str:
        return f'Archive({str(self.run)!r})'

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Tell whether anything is recorded."""
        return self.run.manifest_file.is_file() and self.manifest().archive is not None

    def manifest(self) -> Manifest:
        """Read the manifest as it is now: other processes may be recording."""
        try:
            content = self.run.manifest_file.read_bytes()
        except OSError:
            return self.run.manifest()  # Raises an error that says what is missing.
        if self._parsed is None or self._parsed[0] != content:
            self._parsed = (content, parse_manifest(self.run.path, content))
        return self._parsed[1]

    def record(self) -> ArchiveRecord:
        """Read what the manifest says of the archive; refuse an empty archive."""
        return self._snapshot()[1]

    def _snapshot(self) -> tuple[Manifest, ArchiveRecord]:
        if not isinstance(self.run, RemoteRun) and not self.run.path.is_dir():
            raise UserError(f'{self.run}: no such run directory; train that run first, or correct the path')
        manifest = self.manifest() if self.run.manifest_file.is_file() else None
        if manifest is None or manifest.archive is None:
            raise UserError(
                f'{self.run}: nothing is recorded there; record with `archive:` in its YAML file, or with '
                f'`composer-kd record {self.run}`'
            )
        return manifest, manifest.archive

    def numbers(self, kind: str) -> list[int]:
        """List the recorded epochs, views or sets."""
        return sorted(self.record().tables(kind_of(kind).name))

    def require(self, kind: str) -> list[int]:
        """List the recorded epochs, views or sets; refuse an archive without any."""
        numbers = self.numbers(kind) if self.exists else []
        if not numbers:
            raise UserError(f'{self.run} recorded no {_HOW_TO_RECORD[kind_of(kind).name]}')
        return numbers

    @property
    def epochs(self) -> list[int]:
        """The epochs, counted from 0, whose losses are recorded."""
        return self.numbers('loss')

    @property
    def views(self) -> list[int]:
        """The views whose logits are recorded."""
        return self.numbers('logits')

    def samples(self) -> Samples:
        """Read the samples that the rows of all tables belong to."""
        return self._read_consistently(self._samples)

    def table(self, kind: str, number: int) -> ArchiveTable:
        """Open a table, verified and memory-mapped; it has at most as many rows as :meth:`samples`."""
        return self._read_consistently(lambda manifest, record: self._table(manifest, record, kind, number))

    def metadata(self, kind: str, number: int) -> dict[str, Any]:
        """Read what the manifest says of a table: ``seen``, and the metadata that it was written with."""
        return self._entry(self.record(), kind, number).model_dump(exclude={'file'})

    def bytes(self) -> dict[str, int]:
        """Count the bytes on disk of the samples and of each kind of table."""
        manifest = self.manifest()
        if manifest.archive is None:
            return {}
        sizes = {'samples': manifest.files[manifest.archive.samples].bytes}
        for kind in KINDS:
            sizes[kind] = sum(manifest.files[one.file].bytes for one in manifest.archive.tables(kind).values())
        return sizes

    def check(self) -> None:
        """Open every table and compare its hash, columns, length and counts with the manifest."""

        def check(manifest: Manifest, record: ArchiveRecord) -> None:
            samples = self._samples(manifest, record)
            if len(samples) != record.count or len(samples.distinct()) != len(samples):
                raise UserError(
                    f'{self.run}: {record.samples} has {len(samples):,} samples, {len(samples.distinct()):,} of them '
                    f'distinct, but the manifest says {record.count:,}; record everything again'
                )
            for kind in KINDS:
                for number, entry in record.tables(kind).items():
                    seen = int(self._table(manifest, record, kind, number)['seen'].sum())
                    if seen != entry.seen:
                        raise UserError(
                            f'{self.run}: {entry.file} knows {seen:,} samples, but the manifest says {entry.seen:,}; '
                            f'record it again'
                        )

        self._read_consistently(check)

    def _read_consistently(self, read: Callable[[Manifest, ArchiveRecord], T]) -> T:
        """Read files that one manifest names; read again if another process has replaced some of them meanwhile."""
        manifest, record = self._snapshot()
        while True:
            try:
                return read(manifest, record)
            except (UserError, OSError):
                if isinstance(self.run, RemoteRun):
                    self.run.refresh()
                old_manifest = manifest
                manifest, record = self._snapshot()
                if manifest == old_manifest:
                    raise

    def _samples(self, manifest: Manifest, record: ArchiveRecord) -> Samples:
        return self._open(manifest, record.samples, Samples.load)

    def _table(self, manifest: Manifest, record: ArchiveRecord, kind: str, number: int) -> ArchiveTable:
        entry = self._entry(record, kind, number)
        table = self._open(manifest, entry.file, read_table)
        columns = {name: column for name, column in table.columns.items() if name != 'seen'}
        seen = table.columns.get('seen')
        if seen is None or seen.dtype != torch.uint8 or seen.dim() != 1 or not KINDS[kind].matches(columns):
            raise UserError(
                f'{self.run}: {entry.file} is not a table of {kind}: expected seen uint8 [n] and '
                f'{KINDS[kind].describe()}; record it again'
            )
        name = table.metadata.get('table')
        if name is not None and name != f'{kind} {number}':
            raise UserError(
                f'{self.run}: {entry.file} holds {name}, but the manifest says {kind} {number}: two files were '
                f'exchanged; restore them, or record them again'
            )
        if not 0 < len(table) <= record.count:
            raise UserError(
                f'{self.run}: {entry.file} has {len(table):,} rows for {record.count:,} samples; record it again'
            )
        return table

    def _entry(self, record: ArchiveRecord, kind: str, number: int) -> TableRecord:
        tables = record.tables(kind_of(kind).name)
        if number not in tables:
            known = ', '.join(map(str, sorted(tables))) or 'none'
            raise UserError(f'{self.run}: the archive has no {KINDS[kind].title} {number}; recorded: {known}')
        return tables[number]

    def _open(self, manifest: Manifest, name: str, load: Callable[[Path], T]) -> T:
        """Return a file as ``load`` reads it; verify it on first use, and again when it was replaced."""
        path = self._inside(name)
        known = self._opened.get(name)
        if known is None or known[0] != _identity(path, manifest.files[name]):
            if isinstance(self.run, RemoteRun):
                self.run.fetch_listed(manifest, name)
            else:
                verify_file(self.run.path, manifest, name)
            self._opened[name] = known = (_identity(path, manifest.files[name]), load(path))
        return known[1]

    # -- writing --------------------------------------------------------------------------------------------------

    def begin(self, manifest: Manifest) -> None:
        """Write the first manifest of a run that records while it trains; keep an existing one."""
        with archive_lock(self._local()):
            if not self.run.manifest_file.is_file():
                write_manifest(self.run.path, manifest)

    def put(
        self,
        kind: str,
        number: int,
        samples: Samples,
        columns: Mapping[str, Tensor],
        metadata: Mapping[str, Any] | None = None,
        *,
        counts: Mapping[str, float] | None = None,
        merge: bool = True,
    ) -> None:
        """Write the values of some samples into a table.

        Args:
            kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
            number: The epoch, the view or the set.
            samples: The samples; unknown ones are added to the archive's. Of several with the same id and content the
                first counts.
            columns: The values, one row for each of ``samples``.
            metadata: Plain values for the manifest, which replace earlier ones of the same name.
            counts: Numbers for the manifest, which are added to earlier ones of the same name (``clipped``,
                ``images``, ``seconds``, ``multiply_adds``).
            merge: Keep the table's values of other samples; otherwise the table is written anew.
        """
        if not kind_of(kind).matches(columns) or {len(column) for column in columns.values()} != {len(samples)}:
            given = ', '.join(f'{name} {column.dtype} {list(column.shape)}' for name, column in columns.items())
            raise UserError(
                f'archive: a table of {kind} for {len(samples)} samples has {KINDS[kind].describe()}; got {given}'
            )
        distinct = samples.distinct()
        if not len(distinct):
            return
        if len(distinct) < len(samples):
            samples = samples.take(distinct)
            columns = {name: column[torch.from_numpy(distinct)] for name, column in columns.items()}
        with transaction(self._local()) as manifest:
            record = manifest.archive
            known = self._samples(manifest, record) if record else Samples.none()
            all_samples = known.extended(samples)
            written = []
            if record is None or len(all_samples) > len(known):
                sample_file = unused_name(SAMPLES, manifest)
                all_samples.save(self._inside(sample_file))
                written.append(sample_file)
                record = record or ArchiveRecord(samples=sample_file, count=0)
                record = record.model_copy(update={'samples': sample_file, 'count': len(all_samples)})
            old_entry = record.tables(kind).get(number) if merge else None
            old_table = self._table(manifest, record, kind, number) if old_entry else None
            rows = torch.from_numpy(all_samples.rows_by_key(samples))
            merged_columns = merge_table(old_table, len(all_samples), rows, columns)
            file = unused_name(KINDS[kind].file(number), manifest)
            write_table(self._inside(file), merged_columns, {'table': f'{kind} {number}'})
            written.append(file)
            entry = old_entry.model_dump() if old_entry else {}
            sums = {name: entry.get(name, 0) + count for name, count in (counts or {}).items()}
            entry |= {**(metadata or {}), **sums, 'file': file, 'seen': int(merged_columns['seen'].sum())}
            tables = {**record.tables(kind), number: TableRecord.model_validate(entry)}
            replace_record(self.run.path, manifest, record.model_copy(update={kind: tables}), written)

    def drop(self, kind: str, keep: Callable[[int], bool]) -> None:
        """Remove the tables of a kind whose numbers ``keep`` refuses."""
        with transaction(self._local()) as manifest:
            record = manifest.archive
            tables = record.tables(kind_of(kind).name) if record else {}
            kept = {number: table for number, table in tables.items() if keep(number)}
            if record is not None and len(kept) < len(tables):
                replace_record(self.run.path, manifest, record.model_copy(update={kind: kept}), [])

    def update(self, change: Callable[[Manifest], Manifest]) -> None:
        """Rewrite the manifest under the lock, so that nothing that others record meanwhile is lost."""
        with transaction(self._local()) as manifest:
            write_manifest(self.run.path, change(manifest))

    def _local(self) -> Path:
        """Return the run directory to write into; refuse a remote."""
        if isinstance(self.run, RemoteRun):
            self.run.refuse_to_write()
        return self.run.path

    def _inside(self, name: str) -> Path:
        return inside(self.run.path, name, 'the archive')


def _identity(path: Path, record: FileRecord) -> tuple[Any, ...]:
    """Identify a file's content without reading it: this changes when the file is replaced."""
    try:
        status = path.stat()
    except OSError:
        return (record.xxh3,)
    return record.xxh3, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def manifest_update(run: RunDir, name: str) -> Iterator[None]:
    """Let a file of the run change during the block: remove it from the manifest before, and list it again after.

    A kill at any moment leaves no manifest with a wrong hash of the file.
    """

    def update_files(names: Sequence[str]) -> None:
        def change(manifest: Manifest) -> Manifest:
            others = {file: entry for file, entry in manifest.files.items() if file != name}
            return manifest.model_copy(update={'files': {**others, **file_records(run.path, names)}})

        Archive(run).update(change)

    update_files([])
    yield
    update_files([name])
