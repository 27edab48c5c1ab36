"""A table on disk: columns with one row a sample, in one safetensors file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from composer_kd.archive.files import replacing
from composer_kd.errors import UserError

__all__ = ['Table', 'read_table', 'write_table']


@dataclass(frozen=True)
class Table:
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
    """Write columns of equal length; the same columns and facts make the same bytes."""
    from safetensors.torch import save_file

    assert len({len(column) for column in columns.values()}) == 1, 'columns of one table have equal lengths'
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=dict(facts or {}))


def read_table(path: Path) -> Table:
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
    return Table(columns, facts)
