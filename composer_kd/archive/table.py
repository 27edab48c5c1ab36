"""Tables of an archive: columns with one row a sample in a safetensors file, and the kinds of tables."""

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

from composer_kd.core.errors import UserError, nearest
from composer_kd.storage.atomic import replacing

__all__ = [
    'KINDS',
    'SAMPLES',
    'ArchiveTable',
    'Column',
    'TableKind',
    'aligned',
    'is_table',
    'kind_of',
    'merge_table',
    'read_table',
    'write_table',
]

SAMPLES = 'archive/samples.safetensors'


@dataclass(frozen=True)
class Column:
    """The allowed types of a column and its shape, the row first."""

    dtypes: tuple[torch.dtype, ...]
    shape: tuple[str, ...]

    def fits(self, tensor: Tensor) -> bool:
        return tensor.dtype in self.dtypes and tensor.dim() == len(self.shape)


@dataclass(frozen=True)
class TableKind:
    """A kind of table.

    Attributes:
        name: Of the kind, and of its folder in ``archive/``.
        stem: The beginning of a file's name; the table's number follows.
        title: The name in error lines; the table's number follows.
        layouts: The sets of columns that a table may have, without ``seen``.
    """

    name: str
    stem: str
    title: str
    layouts: tuple[Mapping[str, Column], ...]

    def file(self, number: int) -> str:
        return f'archive/{self.name}/{self.stem}{number:04d}.safetensors'

    def matches(self, columns: Mapping[str, Tensor]) -> bool:
        """Tell whether columns, without ``seen``, have one of the layouts."""
        return any(
            layout.keys() == columns.keys() and all(column.fits(columns[name]) for name, column in layout.items())
            for layout in self.layouts
        )

    def describe(self) -> str:
        """Describe the layouts for an error line."""
        return ' or '.join(
            ', '.join(f'{name} {_types(column.dtypes)} [{", ".join(column.shape)}]' for name, column in layout.items())
            for layout in self.layouts
        )


_HALF, _INDEX = (torch.float16,), (torch.int16, torch.int32)

KINDS = {
    kind.name: kind
    for kind in (
        TableKind(
            'loss',
            'ep',
            'losses of epoch',
            ({'loss': Column((torch.float32,), ('n',)), 'correct': Column((torch.uint8,), ('n',))},),
        ),
        TableKind(
            'logits',
            'view',
            'logits of view',
            (
                {'logits': Column(_HALF, ('n', 'C'))},
                {
                    'values': Column(_HALF, ('n', 'k')),
                    'indices': Column(_INDEX, ('n', 'k')),
                    'rest': Column(_HALF, ('n',)),
                },
            ),
        ),
        TableKind(
            'adversarial',
            'set',
            'adversarial examples of set',
            ({'delta': Column((torch.int8,), ('n', 'C', 'H', 'W'))},),
        ),
    )
}


def kind_of(name: str) -> TableKind:
    """Look up a kind of table by its name; refuse an unknown one."""
    if name not in KINDS:
        raise UserError(f'{name!r} is not a kind of table; {nearest(name, KINDS)}')
    return KINDS[name]


def is_table(name: str) -> bool:
    """Tell by its name whether a file of a run is a table or the samples, which transactions may replace."""
    folder, _, file = name.rpartition('/')
    return file.endswith('.safetensors') and folder in {'archive', *(f'archive/{kind}' for kind in KINDS)}


@dataclass(frozen=True)
class ArchiveTable:
    """Columns of equal length, memory-mapped: a page is read when it is first used.

    Attributes:
        columns: Tensors by name; the first dimension is the row.
        metadata: Strings in the file's header.
    """

    columns: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]


def write_table(path: Path, columns: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write columns of equal length. Equal tables make equal bytes, if ``metadata`` has at most one entry."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    assert len({len(column) for column in columns.values()}) == 1, 'columns of one table have equal lengths'
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary, metadata=dict(metadata or {}))
            temporary.chmod(mode)  # Some versions leave 0600 whatever the umask, and a run directory is shared.
        except SafetensorError as error:
            # The text contains the system's error number, such as that of a full disk, which `replacing` explains.
            number = re.search(r'os error (\d+)', str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def read_table(path: Path) -> ArchiveTable:
    """Open a table; refuse a file that was cut off. The caller has verified its hash."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f'{path}: damaged: not a complete table ({error}); restore it, or record it again') from None
    if not columns or len({len(column) if column.dim() else -1 for column in columns.values()}) != 1:
        raise UserError(f'{path}: not a table of the archive: its columns differ in length; record it again')
    return ArchiveTable(columns, metadata)


def merge_table(
    table: ArchiveTable | None, count: int, rows: Tensor, columns: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Extend the columns of ``table`` to ``count`` rows, write ``columns`` into ``rows``, and mark these as seen."""
    columns = {**columns, 'seen': torch.ones(len(rows), dtype=torch.uint8)}
    result = {}
    for name, column in columns.items():
        result[name] = torch.zeros(count, *column.shape[1:], dtype=column.dtype)
        if table is not None:
            old = table.columns.get(name)
            if old is None or old.dtype != column.dtype or old.shape[1:] != column.shape[1:]:
                raise UserError(
                    f'the recorded table has the columns {_describe(table.columns)}, the new values '
                    f'{_describe(columns)}; one table cannot hold both: record everything again'
                )
            result[name][: len(old)] = old
        result[name][rows] = column.detach().cpu()
    return result


def aligned(table: ArchiveTable, rows: NDArray[np.int64]) -> ArchiveTable:
    """Select the table's rows in the order of a data set.

    Args:
        table: The table.
        rows: A row number for each sample, as :class:`Samples` finds them; -1, an unknown sample, has ``seen`` 0.
    """
    is_known = (rows >= 0) & (rows < len(table))
    index = torch.from_numpy(np.where(is_known, rows, 0))
    columns = {name: column.index_select(0, index) for name, column in table.columns.items()}
    columns['seen'] = columns['seen'] * torch.from_numpy(is_known.astype(np.uint8))
    return ArchiveTable(columns, table.metadata)


def _describe(columns: Mapping[str, Tensor]) -> str:
    return ', '.join(
        f'{name} {_types((column.dtype,))} {list(column.shape[1:])}'
        for name, column in sorted(columns.items())
        if name != 'seen'
    )


def _types(dtypes: tuple[torch.dtype, ...]) -> str:
    return ' or '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)
