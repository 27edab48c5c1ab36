"""What ranks and interrupted harvests leave until it is merged: small tables in ``archive/parts``.

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

import torch
import xxhash
from torch import Tensor

from composer_kd.archive.archive import Archive
from composer_kd.archive.files import atomic_write, sweep, xxh3_of
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import Table, read_table
from composer_kd.errors import UserError

__all__ = ['read_parts', 'remove_parts', 'write_part']

_OF_SAMPLES = frozenset({'id', 'content', 'label'})


def write_part(
    archive: Archive,
    kind: str,
    number: int,
    samples: Samples,
    columns: Mapping[str, Tensor],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Keep what is known of some samples until it is merged into a table; it is on the disk when this returns.

    Args:
        archive: Where the table will be.
        kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
        number: The epoch, the view or the set.
        samples: Whose values these are.
        columns: One row a sample of ``samples``.
        facts: How the values came about. Plain values; parts whose facts differ are never merged.
    """
    from safetensors.torch import save

    assert not _OF_SAMPLES & set(columns), 'the columns id, content and label are those of the samples'
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    tensors |= samples.columns()
    assert {len(column) for column in tensors.values()} == {len(samples)}, 'one row a sample'
    content = save(tensors, {'facts': _text(facts)})
    # Parts are named by their content, so no later one has the name of a half-written one.
    sweep(_folder(archive), None, 'tmp')
    atomic_write(_folder(archive) / f'{_stem(kind, number)}{xxhash.xxh3_128_hexdigest(content)}.safetensors', content)


def read_parts(
    archive: Archive, kind: str, number: int, facts: Mapping[str, Any] | None = None
) -> tuple[Samples, dict[str, Tensor]] | None:
    """What all parts of a table say together, one row a sample; ``None`` without a part.

    Parts may overlap: of one sample's rows any one is taken, whole. Those with other facts are somebody else's, and are
    left alone; those that are damaged are removed, they are of no use to anybody.

    Args:
        archive: Where the parts are.
        kind: ``'loss'``, ``'logits'`` or ``'adversarial'``.
        number: The epoch, the view or the set.
        facts: Those of the parts that are wanted.
    """
    tables: list[Table] = []
    for path in _files(archive, kind, number):
        table = _whole(path)
        if table is None:
            with suppress(OSError):
                path.unlink()
        elif table.facts.get('facts') == _text(facts):
            tables.append(table)
    if not tables:
        return None
    assert all(_form(table) == _form(tables[0]) for table in tables), 'parts of equal facts have equal columns'
    together = {name: torch.cat([table[name] for table in tables]) for name in tables[0].columns}
    samples = Samples.from_columns(together)
    rows = samples.distinct()
    place = torch.from_numpy(rows)
    columns = {name: column[place] for name, column in together.items() if name not in _OF_SAMPLES}
    return samples.take(rows), columns


def remove_parts(
    archive: Archive, kind: str | None = None, number: int | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Forget parts: those of a table, of a kind or all; with ``facts``, those alone that were written with them.

    Without ``facts``, what killed writers left half-written goes too. No other process may be writing such parts
    meanwhile.
    """
    for path in _files(archive, kind, number, half_written=facts is None):
        table = None if facts is None else _whole(path)
        if table is not None and table.facts.get('facts') != _text(facts):
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


def _text(facts: Mapping[str, Any] | None) -> str:
    return json.dumps(dict(facts or {}), sort_keys=True)


def _whole(path: Path) -> Table | None:
    """The part, or None when it is not what its name says."""
    try:
        if xxh3_of(path) != path.stem.rpartition('-')[2]:
            return None
        return read_table(path)
    except (UserError, OSError):
        return None


def _form(table: Table) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (column.dtype, column.shape[1:]) for name, column in table.columns.items()}
