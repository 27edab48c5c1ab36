"""The kinds of tables that an archive holds: what their numbers mean, where they lie, and what columns they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from composer_kd.core.errors import UserError, nearest

__all__ = ['KINDS', 'SAMPLES', 'Column', 'TableKind', 'is_table', 'kind_of']

SAMPLES = 'archive/samples.safetensors'


@dataclass(frozen=True)
class Column:
    """A column's types and its shape, the row first."""

    dtypes: tuple[torch.dtype, ...]
    shape: tuple[str, ...]

    def fits(self, tensor: Tensor) -> bool:
        return tensor.dtype in self.dtypes and tensor.dim() == len(self.shape)


@dataclass(frozen=True)
class TableKind:
    """A kind of table.

    Attributes:
        name: Also the folder in ``archive/``.
        stem: What the files' names begin with; the number follows.
        what: How an error line calls one, before its number.
        forms: The columns that it may have, beside ``seen``.
    """

    name: str
    stem: str
    what: str
    forms: tuple[Mapping[str, Column], ...]

    def file(self, number: int) -> str:
        return f'archive/{self.name}/{self.stem}{number:04d}.safetensors'

    def fits(self, columns: Mapping[str, Tensor]) -> bool:
        """Whether the columns, ``seen`` left out, are those of one form."""
        return any(
            form.keys() == columns.keys() and all(column.fits(columns[name]) for name, column in form.items())
            for form in self.forms
        )

    def expected(self) -> str:
        """The forms in words, for an error line."""
        return ' or '.join(
            ', '.join(f'{name} {_types(column.dtypes)} [{", ".join(column.shape)}]' for name, column in form.items())
            for form in self.forms
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
    """The kind of that name; one line for a name that is none."""
    if name not in KINDS:
        raise UserError(f'{name!r} is no kind of table; {nearest(name, KINDS)}')
    return KINDS[name]


def is_table(name: str) -> bool:
    """Whether a file of a run is a table or the samples, by its name: what a transaction may replace."""
    folder, _, file = name.rpartition('/')
    return file.endswith('.safetensors') and folder in {'archive', *(f'archive/{kind}' for kind in KINDS)}


def _types(dtypes: tuple[torch.dtype, ...]) -> str:
    return ' or '.join(str(dtype).removeprefix('torch.') for dtype in dtypes)
