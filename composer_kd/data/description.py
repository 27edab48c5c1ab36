"""``dataset.json``: what a converted data set says about itself."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import xxhash

from composer_kd.archive.files import atomic_write, xxh3_of
from composer_kd.data.table import SampleTable
from composer_kd.errors import UserError

__all__ = ['DESCRIPTION', 'Description']

DESCRIPTION = 'dataset.json'
_SCHEMA = 1


@dataclass(frozen=True)
class Description:
    """The content of ``dataset.json``, which ends with a hash of itself.

    Attributes:
        source: Where the images came from, in words.
        classes: The name of each class.
        superclasses: The names of the coarser classes, if there are any.
        coarse: The superclass of each class.
        shape: (C, H, W) of every image; ``None`` when they differ.
        mean: Of each channel of the training images, on the scale of 0 to 1.
        std: Likewise.
        splits: For each split its number of ``samples``, and the xxh3 of its ``index`` and its ``table``.
    """

    TABLE: ClassVar[str] = 'table.safetensors'

    source: str
    classes: list[str]
    superclasses: list[str] | None
    coarse: list[int] | None
    shape: list[int] | None
    mean: list[float]
    std: list[float]
    splits: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, root: Path) -> Description:
        path = root / DESCRIPTION
        try:
            values = json.loads(path.read_bytes())
            claimed = values.pop('xxh3')
            schema = values.pop('schema')
        except (ValueError, KeyError, AttributeError):
            raise UserError(f'{path}: damaged: not the JSON of a data set; copy or convert the data again') from None
        if schema != _SCHEMA:
            raise UserError(f'{path}: written in format {schema}, and this version reads {_SCHEMA}; convert again')
        if claimed != _hash_of(values):
            raise UserError(f'{path}: damaged: its xxh3 does not fit its content; copy or convert the data again')
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f'{path}: not the description of a data set ({error}); convert the data again') from None

    def write(self, root: Path) -> None:
        values = asdict(self)
        document = {'schema': _SCHEMA, **values, 'xxh3': _hash_of(values)}
        atomic_write(root / DESCRIPTION, json.dumps(document, indent=1, ensure_ascii=False) + '\n')

    def check_index(self, folder: Path) -> None:
        """Refuse an index that is not the one written with this description."""
        self._check(folder / 'index.json', 'index')

    def table(self, folder: Path) -> SampleTable:
        """The table of samples of the split in ``folder``, verified."""
        self._check(folder / self.TABLE, 'table')
        return SampleTable.load(folder / self.TABLE)

    def table_problem(self, path: Path) -> str | None:
        """What is wrong with a table, the split being the folder that it lies in."""
        return self._problem(path, 'table')

    def _problem(self, path: Path, part: str) -> str | None:
        if path.parent.name not in self.splits:
            return f'{DESCRIPTION} knows nothing of this split'
        if not path.exists():
            return 'the file is missing'
        if xxh3_of(path) != self.splits[path.parent.name][part]:
            return f'its xxh3 is not the one in {DESCRIPTION}'
        return None

    def _check(self, path: Path, part: str) -> None:
        problem = self._problem(path, part)
        if problem:
            raise UserError(f'{path}: damaged: {problem}; copy or convert the data again')


def _hash_of(values: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())
