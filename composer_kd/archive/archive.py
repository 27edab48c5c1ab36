"""What a run computed for each sample, kept for later runs: losses an epoch, logits a view, adversarial deltas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.manifest import (
    ArchiveRecord,
    Manifest,
    TableRecord,
    file_records,
    inside,
    read_manifest,
    verify_file,
    write_manifest,
)
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import Table, read_table, write_table
from composer_kd.archive.waiting import locked
from composer_kd.errors import UserError

__all__ = ['Archive', 'aligned']


@dataclass(frozen=True)
class Kind:
    """A kind of table: where it lies, how its files are called, what its columns hold for a sample nobody has seen."""

    name: str
    stem: str
    columns: frozenset[str]


KINDS = {
    'loss': Kind('loss', 'ep', frozenset({'loss', 'correct'})),
    'logits': Kind('logits', 'view', frozenset({'logits', 'values', 'indices', 'rest'})),
    'adversarial': Kind('adversarial', 'set', frozenset({'delta'})),
}
SAMPLES = 'archive/samples.safetensors'


class Archive:
    """The per-sample tables of one run directory.

    Every table has a row for each sample of :attr:`samples` (one that was written when there were fewer knows nothing
    of the later ones) and a ``seen`` column. A table is verified when it is opened. Writing is a transaction under a
    lock: new files first, then the manifest, then the files that it no longer names are removed; a process that is
    killed anywhere leaves the state before.

    Args:
        run: The run directory.
    """

    def __init__(self, run: str | Path | RunDir):
        self.run = run if isinstance(run, RunDir) else RunDir(run)
        self._open: dict[str, Table] = {}
        self._samples: tuple[str, Samples] | None = None

    def __repr__(self) -> str:
        return f'Archive({str(self.run.path)!r})'

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self.run.manifest_file.is_file() and read_manifest(self.run.path).archive is not None

    def manifest(self) -> Manifest:
        """The manifest as it is now: other processes may be recording."""
        return read_manifest(self.run.path)

    def record(self) -> ArchiveRecord:
        """What the archive holds; one line if it holds nothing."""
        record = self.manifest().archive if self.run.manifest_file.is_file() else None
        if record is None:
            raise UserError(
                f'{self.run.path}: nothing is recorded there; record with `archive:` in its YAML, or with '
                f'`composer-kd harvest {self.run.path}`'
            )
        return record

    def numbers(self, kind: str) -> list[int]:
        """The epochs, views or sets that there are tables of."""
        return sorted(getattr(self.record(), kind))

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
        return self._retrying(self._read_samples)

    def table(self, kind: str, number: int) -> Table:
        """One table, verified, memory-mapped; columns of a length up to that of :meth:`samples`."""

        def read() -> Table:
            record = getattr(self.record(), kind).get(number)
            if record is None:
                known = ', '.join(map(str, self.numbers(kind))) or 'none'
                what = {'loss': 'losses of epoch', 'logits': 'logits of view'}.get(kind, f'{kind} table')
                raise UserError(f'{self.run.path}: the archive has no {what} {number}; recorded: {known}')
            if record.file not in self._open:
                self._verify(record.file)
                self._open[record.file] = _checked(read_table(self.run.path / record.file), self.run.path / record.file)
            return self._open[record.file]

        return self._retrying(read)

    def facts(self, kind: str, number: int) -> dict[str, Any]:
        """What the manifest says about a table beside its file: ``seen`` and what was put with it."""
        record = getattr(self.record(), kind)[number]
        return {key: value for key, value in record.model_dump().items() if key != 'file'}

    def bytes(self) -> dict[str, int]:
        """Bytes on disk for each kind of table."""
        manifest = self.manifest()
        if manifest.archive is None:
            return {}
        sizes = {'samples': manifest.files[manifest.archive.samples].bytes}
        for kind in KINDS:
            sizes[kind] = sum(manifest.files[one.file].bytes for one in getattr(manifest.archive, kind).values())
        return sizes

    def _read_samples(self) -> Samples:
        name = self.record().samples
        if self._samples is None or self._samples[0] != name:
            self._verify(name)
            self._samples = (name, Samples.load(self.run.path / name))
        return self._samples[1]

    def _verify(self, name: str) -> None:
        verify_file(self.run.path, self.manifest(), name)

    def _retrying(self, read: Callable[[], Any]) -> Any:
        """Another process may replace a file between the reading of the manifest and that of the file: once more."""
        before = self.run.manifest_file.read_bytes() if self.run.manifest_file.is_file() else b''
        try:
            return read()
        except (UserError, OSError):
            if not self.run.manifest_file.is_file() or self.run.manifest_file.read_bytes() == before:
                raise
            return read()

    # -- writing --------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the archive's lock; other writers wait."""
        with locked(self.run.path / 'archive' / '.lock'):
            yield

    def begin(self, manifest: Manifest) -> None:
        """Give a run that has not finished a manifest for its recorders; one that is there stays."""
        with self.writing():
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
            counts: For the manifest too, added to what is there: images, seconds, clipped values.
            counts: Further facts, numbers: what they cost so far is added to them (``clipped``, ``images``,
                ``seconds``, ``multiply_adds``).
            merge: Keep what the table says of other samples; otherwise it is written anew.
        """
        distinct = samples.distinct()
        if len(distinct) < len(samples):
            samples = samples.take(distinct)
            columns = {name: column[torch.from_numpy(distinct)] for name, column in columns.items()}
        with self.writing():
            manifest = self.manifest()
            before = manifest.archive
            known = Samples.none() if before is None else self._read_samples()
            grown = known.extended(samples)
            if before is None or len(grown) > len(known):
                sample_file = self._free_name(SAMPLES, manifest)
                grown.save(self.run.path / sample_file)
            else:
                sample_file = before.samples
            rows = torch.from_numpy(grown.rows_by_key(samples))
            old = getattr(before, kind).get(number) if before is not None and merge else None
            table = self.table(kind, number) if old is not None else None
            merged = _merged(table, len(grown), rows, columns)
            file = self._free_name(f'archive/{kind}/{KINDS[kind].stem}{number:04d}.safetensors', manifest)
            write_table(self.run.path / file, merged, {'kind': kind, 'number': str(number)})
            entry = {**(old.model_dump() if old is not None else {}), **(facts or {})}
            entry |= {name: entry.get(name, 0) + count for name, count in (counts or {}).items()}
            entry |= {'file': file, 'seen': int(merged['seen'].sum())}
            record = before or ArchiveRecord(samples=sample_file, count=0)
            tables = {**getattr(record, kind), number: TableRecord.model_validate(entry)}
            record = record.model_copy(update={'samples': sample_file, 'count': len(grown), kind: tables})
            self._replace(manifest, record, [sample_file, file])

    def drop(self, kind: str, keep: Callable[[int], bool]) -> None:
        """Forget the tables of a kind whose numbers ``keep`` refuses."""
        with self.writing():
            manifest = self.manifest()
            if manifest.archive is None:
                return
            tables = {number: table for number, table in getattr(manifest.archive, kind).items() if keep(number)}
            if len(tables) < len(getattr(manifest.archive, kind)):
                self._replace(manifest, manifest.archive.model_copy(update={kind: tables}), [])

    def update(self, change: Callable[[Manifest], Manifest]) -> None:
        """Rewrite the manifest under the lock, so that nothing that is being recorded meanwhile is lost."""
        with self.writing():
            write_manifest(self.run.path, change(self.manifest()))

    def _replace(self, manifest: Manifest, record: ArchiveRecord, written: list[str]) -> None:
        """The transaction's end: the manifest names the new files, then those that it no longer names go."""
        named = {record.samples} | {t.file for kind in KINDS for t in getattr(record, kind).values()}
        kept = {name: entry for name, entry in manifest.files.items() if not _is_table(name) or name in named}
        files = {**kept, **file_records(self.run.path, written)}
        write_manifest(self.run.path, manifest.model_copy(update={'archive': record, 'files': files}))
        for path in [*(self.run.path / 'archive').glob('*.safetensors'), *(self.run.path / 'archive').glob('*/*')]:
            name = path.relative_to(self.run.path).as_posix()
            if _is_table(name) and name not in named:
                with suppress(OSError):
                    path.unlink()
                self._open.pop(name, None)

    def _free_name(self, name: str, manifest: Manifest) -> str:
        """``name``, or ``name`` with a number when the manifest names that file: what it names is never touched."""
        inside(self.run.path, name, 'the archive')
        free, count = name, 0
        while free in manifest.files:
            count += 1
            free = name.replace('.safetensors', f'-{count}.safetensors')
        return free


def _is_table(name: str) -> bool:
    """Whether a file is a table or the samples: what a transaction may remove. Parts have a folder of their own."""
    folder, _, file = name.rpartition('/')
    return file.endswith('.safetensors') and folder in {'archive', *(f'archive/{kind}' for kind in KINDS)}


def _checked(table: Table, path: Path) -> Table:
    seen = table.columns.get('seen')
    if seen is None or seen.dtype != torch.uint8 or seen.dim() != 1:
        raise UserError(f'{path}: not a table of the archive, it has no column seen; record it again')
    return table


def _merged(table: Table | None, count: int, rows: Tensor, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of ``table`` brought to ``count`` rows, with ``columns`` put in at ``rows``; ``seen`` follows."""
    merged = {}
    for name, column in columns.items():
        filled = torch.zeros(count, *column.shape[1:], dtype=column.dtype)
        if table is not None:
            before = table.columns.get(name)
            if before is None or before.dtype != column.dtype or before.shape[1:] != column.shape[1:]:
                raise UserError(
                    f'the archive holds {name} in another form ({sorted(table.columns)}); record into an empty one'
                )
            filled[: len(before)] = before
        filled[rows] = column.detach().cpu()
        merged[name] = filled
    seen = torch.zeros(count, dtype=torch.uint8)
    if table is not None:
        seen[: len(table)] = table['seen']
    seen[rows] = 1
    return {**merged, 'seen': seen}


def aligned(table: Table, rows: NDArray[np.int64]) -> Table:
    """The table's rows in the order of a data set: ``rows`` as :class:`Samples` finds them, -1 for unknown samples."""
    inside_table = (rows >= 0) & (rows < len(table))
    place = torch.from_numpy(np.where(inside_table, rows, 0))
    columns = {name: column.index_select(0, place) for name, column in table.columns.items()}
    columns['seen'] = columns['seen'] * torch.from_numpy(inside_table.astype(np.uint8))
    return Table(columns, table.facts)
