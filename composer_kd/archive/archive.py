"""What a run computed for each sample, kept for later runs: losses an epoch, logits a view, adversarial deltas."""

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
from composer_kd.archive.table import ArchiveTable, merged, read_table, write_table
from composer_kd.archive.tables import KINDS, SAMPLES, kind_of
from composer_kd.archive.transaction import free_name, held, replace_record, transaction
from composer_kd.core.errors import UserError

__all__ = ['Archive', 'unlisted']

T = TypeVar('T')


_RECORDED_BY = {
    'loss': 'losses; train it with `archive: {losses: true}`, or with the callback RecordLosses',
    'logits': 'logits; record them with `composer-kd record RUN`',
    'adversarial': 'adversarial examples; train it with AdversarialRecycling and `archive: {adversarial: true}`',
}


class Archive:
    """The per-sample tables of one run directory.

    Every table has a row for each sample of :meth:`samples` (one that was written when there were fewer knows nothing
    of the later ones) and a ``seen`` column. A table is verified when it is opened. Writing is a transaction under a
    lock: new files first, then the manifest, then the files that it no longer names are removed; a process that is
    killed anywhere leaves the state before. Reading needs no lock, and sees the state before or the one after.

    Args:
        run: The run directory: a path, or the URL of one on a remote that Streaming knows (``s3://bucket/runs/gen0``),
            whose files are fetched when they are asked for, verified, and only read.

    Example:
        >>> from composer_kd import Archive
        >>> from composer_kd.archive import Samples, aligned
        >>> archive = Archive('runs/gen0')
        >>> archive.epochs, archive.views
        ([0, 1, 2], [0, 1, 2, 3])
        >>> rows = archive.samples().rows_by_content(Samples.of(dataset))  # of my data, -1 for what it does not know
        >>> last = aligned(archive.table('loss', 2), rows)
        >>> last['loss'][last['seen'] == 1].mean()
        tensor(1.7310)
    """

    def __init__(self, run: str | Path | RunDir):
        self.run = run_at(run)
        self._read: tuple[bytes, Manifest] | None = None
        self._open: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def __repr__(self) -> str:
        return f'Archive({str(self.run)!r})'

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether anything is recorded."""
        return self.run.manifest_file.is_file() and self.manifest().archive is not None

    def manifest(self) -> Manifest:
        """The manifest as it is now: other processes may be recording."""
        file = self.run.manifest_file
        try:
            content = file.read_bytes()
        except OSError:
            return self.run.manifest()  # Says in one line what is missing.
        if self._read is None or self._read[0] != content:
            self._read = (content, parse_manifest(self.run.path, content))
        return self._read[1]

    def record(self) -> ArchiveRecord:
        """What the archive holds; one line if it holds nothing."""
        return self._snapshot()[1]

    def _snapshot(self) -> tuple[Manifest, ArchiveRecord]:
        if not isinstance(self.run, RemoteRun) and not self.run.path.is_dir():
            raise UserError(f'{self.run}: no such run directory; train that run first, or correct the path')
        manifest = self.manifest() if self.run.manifest_file.is_file() else None
        if manifest is None or manifest.archive is None:
            raise UserError(
                f'{self.run}: nothing is recorded there; record with `archive:` in its YAML, or with '
                f'`composer-kd record {self.run}`'
            )
        return manifest, manifest.archive

    def numbers(self, kind: str) -> list[int]:
        """The epochs, views or sets that there are tables of."""
        return sorted(self.record().tables(kind_of(kind).name))

    def require(self, kind: str) -> list[int]:
        """The epochs, views or sets that there are tables of; one line with the remedy if there are none."""
        numbers = self.numbers(kind) if self.exists else []
        if not numbers:
            raise UserError(f'{self.run} recorded no {_RECORDED_BY[kind_of(kind).name]}')
        return numbers

    @property
    def epochs(self) -> list[int]:
        """Epochs, counted from 0, whose losses are recorded."""
        return self.numbers('loss')

    @property
    def views(self) -> list[int]:
        """Views whose logits are recorded."""
        return self.numbers('logits')

    def samples(self) -> Samples:
        """The samples that the rows belong to, in their order."""
        return self._consistently(self._samples)

    def table(self, kind: str, number: int) -> ArchiveTable:
        """One table, verified, memory-mapped; columns of a length up to that of :meth:`samples`."""
        return self._consistently(lambda manifest, record: self._table(manifest, record, kind, number))

    def facts(self, kind: str, number: int) -> dict[str, Any]:
        """What the manifest says about a table beside its file: ``seen`` and what was put with it."""
        return self._entry(self.record(), kind, number).model_dump(exclude={'file'})

    def bytes(self) -> dict[str, int]:
        """Bytes on disk of the samples and of each kind of table."""
        manifest = self.manifest()
        if manifest.archive is None:
            return {}
        sizes = {'samples': manifest.files[manifest.archive.samples].bytes}
        for kind in KINDS:
            sizes[kind] = sum(manifest.files[one.file].bytes for one in manifest.archive.tables(kind).values())
        return sizes

    def check(self) -> None:
        """Open everything: beyond the hashes, that columns, lengths and counts are what the manifest says."""

        def check(manifest: Manifest, record: ArchiveRecord) -> None:
            samples = self._samples(manifest, record)
            if len(samples) != record.count or len(samples.distinct()) != len(samples):
                raise UserError(
                    f'{self.run}: {record.samples} has {len(samples):,} samples, {len(samples.distinct()):,} distinct '
                    f'ones, the manifest says {record.count:,}; record anew'
                )
            for kind in KINDS:
                for number, entry in record.tables(kind).items():
                    seen = int(self._table(manifest, record, kind, number)['seen'].sum())
                    if seen != entry.seen:
                        raise UserError(
                            f'{self.run}: {entry.file} knows {seen:,} samples, the manifest says {entry.seen:,}; '
                            f'record it again'
                        )

        self._consistently(check)

    def _consistently(self, read: Callable[[Manifest, ArchiveRecord], T]) -> T:
        """Read files by one manifest; when some are gone or others by then because another process writes, anew."""
        manifest, record = self._snapshot()
        while True:
            try:
                return read(manifest, record)
            except (UserError, OSError):
                if isinstance(self.run, RemoteRun):
                    self.run.refresh()
                before = manifest
                manifest, record = self._snapshot()
                if manifest == before:
                    raise

    def _samples(self, manifest: Manifest, record: ArchiveRecord) -> Samples:
        return self._opened(manifest, record.samples, Samples.load)

    def _table(self, manifest: Manifest, record: ArchiveRecord, kind: str, number: int) -> ArchiveTable:
        entry = self._entry(record, kind, number)
        table = self._opened(manifest, entry.file, read_table)
        columns = {name: column for name, column in table.columns.items() if name != 'seen'}
        seen = table.columns.get('seen')
        if seen is None or seen.dtype != torch.uint8 or seen.dim() != 1 or not KINDS[kind].fits(columns):
            raise UserError(
                f'{self.run}: {entry.file} is no table of {kind}: expected seen uint8 [n] and '
                f'{KINDS[kind].expected()}; record it again'
            )
        said = table.facts.get('table')
        if said is not None and said != f'{kind} {number}':
            raise UserError(
                f'{self.run}: {entry.file} says that it holds {said}, the manifest says {kind} {number}: two were '
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
            raise UserError(f'{self.run}: the archive has no {KINDS[kind].what} {number}; recorded: {known}')
        return tables[number]

    def _opened(self, manifest: Manifest, name: str, load: Callable[[Path], T]) -> T:
        """A file as ``load`` reads it: verified when it is first asked for, and when another one took its place."""
        path = self._inside(name)
        known = self._open.get(name)
        if known is None or known[0] != _identity(path, manifest.files[name]):
            if isinstance(self.run, RemoteRun):
                self.run.fetch_listed(manifest, name)
            else:
                verify_file(self.run.path, manifest, name)
            self._open[name] = known = (_identity(path, manifest.files[name]), load(path))
        return known[1]

    # -- writing --------------------------------------------------------------------------------------------------

    def begin(self, manifest: Manifest) -> None:
        """Give a run that has not finished a manifest for its recorders; one that is there stays."""
        with held(self._local()):
            if not self.run.manifest_file.is_file():
                write_manifest(self.run.path, manifest)

    def put(
        self,
        kind: str,
        number: int,
        samples: Samples,
        columns: Mapping[str, Tensor],
        facts: Mapping[str, Any] | None = None,
        *,
        counts: Mapping[str, float] | None = None,
        merge: bool = True,
    ) -> None:
        """Enter what is known of some samples into a table.

        Args:
            kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
            number: The epoch, the view or the set.
            samples: Whose values these are; unknown ones are added to the archive's samples. Of several of one id and
                content, the first counts.
            columns: One row a sample of ``samples``.
            facts: For the manifest, beside ``seen``. Plain values; those that are there already stay, unless replaced.
            counts: Further facts, numbers: what they cost so far is added to them (``clipped``, ``images``,
                ``seconds``, ``multiply_adds``).
            merge: Keep what the table says of other samples; otherwise it is written anew.
        """
        if not kind_of(kind).fits(columns) or {len(column) for column in columns.values()} != {len(samples)}:
            given = ', '.join(f'{name} {column.dtype} {list(column.shape)}' for name, column in columns.items())
            raise UserError(
                f'archive: a table of {kind} for {len(samples)} samples has {KINDS[kind].expected()}; got {given}'
            )
        distinct = samples.distinct()
        if not len(distinct):
            return
        if len(distinct) < len(samples):
            samples = samples.take(distinct)
            columns = {name: column[torch.from_numpy(distinct)] for name, column in columns.items()}
        with transaction(self._local()) as manifest:
            before = manifest.archive
            known = self._samples(manifest, before) if before else Samples.none()
            grown = known.extended(samples)
            written = []
            if before is None or len(grown) > len(known):
                sample_file = free_name(SAMPLES, manifest)
                grown.save(self._inside(sample_file))
                written.append(sample_file)
                before = before or ArchiveRecord(samples=sample_file, count=0)
                before = before.model_copy(update={'samples': sample_file, 'count': len(grown)})
            old = before.tables(kind).get(number) if merge else None
            table = self._table(manifest, before, kind, number) if old else None
            together = merged(table, len(grown), torch.from_numpy(grown.rows_by_key(samples)), columns)
            file = free_name(KINDS[kind].file(number), manifest)
            write_table(self._inside(file), together, {'table': f'{kind} {number}'})
            written.append(file)
            entry = old.model_dump() if old else {}
            added = {name: entry.get(name, 0) + count for name, count in (counts or {}).items()}
            entry |= {**(facts or {}), **added, 'file': file, 'seen': int(together['seen'].sum())}
            tables = {**before.tables(kind), number: TableRecord.model_validate(entry)}
            replace_record(self.run.path, manifest, before.model_copy(update={kind: tables}), written)

    def drop(self, kind: str, keep: Callable[[int], bool]) -> None:
        """Forget the tables of a kind whose numbers ``keep`` refuses."""
        with transaction(self._local()) as manifest:
            record = manifest.archive
            tables = record.tables(kind_of(kind).name) if record else {}
            kept = {number: table for number, table in tables.items() if keep(number)}
            if record is not None and len(kept) < len(tables):
                replace_record(self.run.path, manifest, record.model_copy(update={kind: kept}), [])

    def update(self, change: Callable[[Manifest], Manifest]) -> None:
        """Rewrite the manifest under the lock, so that nothing that is being recorded meanwhile is lost."""
        with transaction(self._local()) as manifest:
            write_manifest(self.run.path, change(manifest))

    def _local(self) -> Path:
        """The run directory, to write into."""
        if isinstance(self.run, RemoteRun):
            self.run.refuse_to_write()
        return self.run.path

    def _inside(self, name: str) -> Path:
        return inside(self.run.path, name, 'the archive')


def _identity(path: Path, record: FileRecord) -> tuple[Any, ...]:
    """What changes when a file is replaced, without reading it."""
    try:
        status = path.stat()
    except OSError:
        return (record.xxh3,)
    return record.xxh3, status.st_ino, status.st_size, status.st_mtime_ns


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
