"""A table on disk: columns with one row a sample, in one safetensors file that is whole or not there."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import replacing

__all__ = ['ArchiveTable', 'aligned', 'merged', 'read_table', 'write_table']


@dataclass(frozen=True)
class ArchiveTable:
    """Columns of equal length, memory-mapped: a page is read when it is first touched.

    Attributes:
        columns: Names to tensors whose first dimension is the row.
        facts: What the file says about itself, as strings.
    """

    columns: Mapping[str, Tensor]
    facts: Mapping[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]


def write_table(path: Path, columns: Mapping[str, Tensor], facts: Mapping[str, str] | None = None) -> None:
    """Write columns of equal length; the same ones make the same bytes, with one fact at most."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert len({len(column) for column in columns.values()}) == 1, 'columns of one table have equal lengths'
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata=dict(facts or {}))
            temporary.chmod(mode)  # Some versions leave 0600 whatever the umask, and a run directory is shared.
        except SafetensorError as error:
            # It wraps the system's error, a full disk for one, in words: its number again, for `replacing` to explain.
            number = re.search(r'os error (\d+)', str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_table(path: Path) -> ArchiveTable:
    """Open a table; a file that was cut off is refused. The caller has compared its hash with what it should be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f'{path}: damaged: not a whole table ({error}); restore it, or record it again') from None
    if not columns or len({len(column) if column.dim() else -1 for column in columns.values()}) != 1:
        raise UserError(f'{path}: not a table of the archive: its columns are not of one length; record it again')
    return ArchiveTable(columns, facts)


def merged(table: ArchiveTable | None, count: int, rows: Tensor, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of ``table`` brought to ``count`` rows, with ``columns`` put in at ``rows``; ``seen`` follows."""
    together = {}
    for name, column in columns.items():
        filled = torch.zeros(count, *column.shape[1:], dtype=column.dtype)
        if table is not None:
            before = table.columns.get(name)
            if before is None or before.dtype != column.dtype or before.shape[1:] != column.shape[1:]:
                raise UserError(
                    f'what is recorded has the columns {_form(table.columns)}, what is new {_form(columns)}; they do '
                    f'not fit into one table: record all of it anew'
                )
            filled[: len(before)] = before
        filled[rows] = column.detach().cpu()
        together[name] = filled
    seen = torch.zeros(count, dtype=torch.uint8)
    if table is not None:
        seen[: len(table)] = table['seen']
    seen[rows] = 1
    return {**together, 'seen': seen}


def aligned(table: ArchiveTable, rows: NDArray[np.int64]) -> ArchiveTable:
    """The table's rows in the order of a data set: ``rows`` as :class:`Samples` finds them, -1 for unknown samples."""
    within = (rows >= 0) & (rows < len(table))
    place = torch.from_numpy(np.where(within, rows, 0))
    columns = {name: column.index_select(0, place) for name, column in table.columns.items()}
    columns['seen'] = columns['seen'] * torch.from_numpy(within.astype(np.uint8))
    return ArchiveTable(columns, table.facts)


def _form(columns: Mapping[str, Tensor]) -> str:
    return ', '.join(
        f'{name} {str(column.dtype).removeprefix("torch.")} {list(column.shape[1:])}'
        for name, column in sorted(columns.items())
        if name != 'seen'
    )
