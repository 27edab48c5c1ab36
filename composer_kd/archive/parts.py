"""What ranks and interrupted recordings leave until it is merged: small tables in ``archive/parts``.

A part is whole or not there, and its file's name holds the xxh3 of its bytes, so that it needs no manifest and any
number of processes write parts without waiting for each other. One process merges them: :meth:`Archive.put` of what
:func:`read_parts` gives, then :func:`remove_parts`. A part that is left after that says what the table says already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.archive import Archive
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import ArchiveTable, aligned, read_table
from composer_kd.core.errors import UserError
from composer_kd.functional.top_k import keep_top, to_half
from composer_kd.storage.atomic import atomic_write, sweep, xxh3_of

__all__ = ['clipped', 'merge_logits', 'read_parts', 'recorded_rows', 'remove_parts', 'write_logits', 'write_part']

_OF_SAMPLES = frozenset({'id', 'content', 'label'})


def write_part(
    archive: Archive,
    kind: str,
    number: int,
    samples: Samples,
    columns: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Keep what is known of some samples until it is merged into a table; it is on the disk when this returns.

    Args:
        archive: Where the table will be.
        kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
        number: The epoch, the view or the set.
        samples: Whose values these are.
        columns: One row a sample of ``samples``.
        metadata: How the values came about. Plain values; parts whose metadata differ are never merged.
    """
    from safetensors.torch import save

    assert not _OF_SAMPLES & set(columns), 'the columns id, content and label are those of the samples'
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    tensors |= samples.columns()
    assert {len(column) for column in tensors.values()} == {len(samples)}, 'one row a sample'
    content = save(tensors, {'metadata': _text(metadata)})
    # Parts are named by their content, so no later one has the name of a half-written one.
    sweep(_folder(archive), None, 'tmp')
    atomic_write(_folder(archive) / f'{_stem(kind, number)}{xxhash.xxh3_128_hexdigest(content)}.safetensors', content)


def read_parts(
    archive: Archive, kind: str, number: int, metadata: Mapping[str, Any] | None = None
) -> tuple[Samples, dict[str, Tensor]] | None:
    """What all parts of a table say together, one row a sample; ``None`` without a part.

    Parts may overlap: of one sample's rows any one is taken, whole. Those with other metadata are of others, and are
    left alone; those that are damaged are removed, they are of no use to anybody.

    Args:
        archive: Where the parts are.
        kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
        number: The epoch, the view or the set.
        metadata: Those of the parts that are wanted.
    """
    tables: list[ArchiveTable] = []
    for path in _files(archive, kind, number):
        table = _whole(path)
        if table is None:
            with suppress(OSError):
                path.unlink()
        elif table.metadata.get('metadata') == _text(metadata):
            tables.append(table)
    if not tables:
        return None
    assert all(_form(table) == _form(tables[0]) for table in tables), 'parts of equal metadata have equal columns'
    together = {name: torch.cat([table[name] for table in tables]) for name in tables[0].columns}
    samples = Samples.from_columns(together)
    rows = samples.distinct()
    place = torch.from_numpy(rows)
    columns = {name: column[place] for name, column in together.items() if name not in _OF_SAMPLES}
    return samples.take(rows), columns


def remove_parts(
    archive: Archive, kind: str | None = None, number: int | None = None, metadata: Mapping[str, Any] | None = None
) -> None:
    """Forget parts: those of a table, of a kind or all; with ``metadata``, those alone that were written with them.

    Without ``metadata``, what killed writers left half-written goes too. No other process may be writing such parts
    meanwhile.
    """
    for path in _files(archive, kind, number, half_written=metadata is None):
        table = None if metadata is None else _whole(path)
        if table is not None and table.metadata.get('metadata') != _text(metadata):
            continue
        with suppress(OSError):
            path.unlink()


def _files(archive: Archive, kind: str | None, number: int | None, half_written: bool = False) -> list[Path]:
    stem = '' if kind is None else f'{kind}-' if number is None else _stem(kind, number)
    files = []
    for path in sorted(_folder(archive).glob('*')):
        temporary = path.name.startswith('.')
        if path.name.lstrip('.').startswith(stem) and (half_written or not temporary):
            files.append(path)
    return files


def _folder(archive: Archive) -> Path:
    return archive.run.path / 'archive' / 'parts'


def _stem(kind: str, number: int) -> str:
    return f'{kind}-{number:04d}-'


def _text(metadata: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(metadata or {}), sort_keys=True)


def _whole(path: Path) -> ArchiveTable | None:
    """The part, or None when it is not what its name says."""
    try:
        if xxh3_of(path) != path.stem.rpartition('-')[2]:
            return None
        return read_table(path)
    except (UserError, OSError):
        return None


def _form(table: ArchiveTable) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (column.dtype, column.shape[1:]) for name, column in table.columns.items()}


def write_logits(
    archive: Archive,
    view: int,
    samples: Samples,
    logits: Tensor,
    metadata: Mapping[str, Any],
    seconds: float = 0.0,
) -> None:
    """Keep the logits of some samples in a part; several processes may do so at once.

    Args:
        archive: Where they will be.
        view: Of the samples.
        samples: Whose they are.
        logits: ``[n, C]``, in full precision.
        metadata: Of the table that they belong to. ``top_k`` among them says whether they are kept whole.
        seconds: What they cost, for the table's metadata.
    """
    logits = logits.cpu().float()
    if not bool(torch.isfinite(logits).all()):
        raise UserError(f'{archive.run.path}: logits of view {view} are NaN or infinite; they are not recorded')
    half, _ = to_half(logits)
    if metadata['top_k'] is None:
        columns = {'logits': half}
    else:
        values, indices, rest = keep_top(half, metadata['top_k'])
        columns = {'values': values, 'indices': indices, 'rest': rest}
    # What a row cost goes with it, so that nothing is lost of the account when a process is killed.
    columns['seconds'] = torch.full((len(logits),), seconds / len(logits), dtype=torch.float64)
    write_part(archive, 'logits', view, samples, columns, metadata)


def merge_logits(
    archive: Archive, view: int, metadata: Mapping[str, Any], multiply_adds: int = 0, counted_as: str = ''
) -> None:
    """Move what the parts of a view say into its table; rows that it has already stay as they are.

    Args:
        archive: Where the parts and the table are.
        view: Whose.
        metadata: Those that the parts were written with; they become the table's.
        multiply_adds: The cost of one sample's forward pass, where one was made for the recording.
        counted_as: Begins the names of the costs in the manifest, where another than the table's recorder paid them.
    """
    parts = read_parts(archive, 'logits', view, metadata)
    if parts is not None:
        samples, columns = parts
        # Parts come in any order; in that of their ids the samples make the same file every time.
        new = np.flatnonzero(~recorded_rows(archive, view, samples))
        new = new[np.argsort(samples.ids[new], kind='stable')]
        columns = {name: column[torch.from_numpy(new)] for name, column in columns.items()}
        seconds = float(columns.pop('seconds').sum())
        images = len(new) if multiply_adds else 0
        counts = {
            'clipped': clipped(columns),
            f'{counted_as}images': images,
            f'{counted_as}seconds': round(seconds, 3),
            f'{counted_as}multiply_adds': images * multiply_adds,
        }
        if len(new):
            archive.put('logits', view, samples.take(new), columns, metadata, counts=counts)
    remove_parts(archive, 'logits', view, metadata)


def clipped(columns: Mapping[str, Tensor]) -> int:
    """How many of the stored logits lie at the limits of float16, where larger ones were brought to."""
    values = columns.get('logits', columns.get('values'))
    assert values is not None
    return int((values.abs() == torch.finfo(values.dtype).max).sum())


def recorded_rows(archive: Archive, view: int, samples: Samples) -> NDArray[np.bool_]:
    """Which of the samples the table of a view knows."""
    record = archive.manifest().archive
    if record is None or view not in record.logits:
        return np.zeros(len(samples), bool)
    rows = archive.samples().rows_by_key(samples)
    return aligned(archive.table('logits', view), rows)['seen'].numpy() != 0
