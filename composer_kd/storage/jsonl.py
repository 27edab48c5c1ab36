"""JSON lines files that grow by one record at a time and survive a kill in the middle of a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import atomic_write, make_folder, open_own, sync_folder, writing_to

__all__ = ['append_line', 'read_lines', 'rewrite_lines']


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines, none if there is no file; text after the last newline was cut off and is ignored."""
    try:
        whole, _, _ = path.read_bytes().rpartition(b'\n')
    except FileNotFoundError:
        return []
    return [_parse(line, f'{path}:{number}') for number, line in enumerate(whole.splitlines(), 1) if line.strip()]


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line and wait until it is on the disk. NaN and infinities become null: JSON has no word for them."""
    line = (_dump(record) + '\n').encode()
    make_folder(path.parent)
    # Cut off what a full disk or a kill has left of the last line.
    with writing_to(path.parent), FileIO(open_own(path, os.O_RDWR | os.O_APPEND), 'a+') as file:
        end = _end_of_whole_lines(file)
        file.truncate(end)
        rest = memoryview(line)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
        if end == 0:
            sync_folder(path.parent)


def rewrite_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the whole file atomically."""
    atomic_write(path, ''.join(_dump(record) + '\n' for record in records))


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f'{where}: not a JSON object: the file is damaged; remove this line or restore the file')
    return record


def _dump(record: Mapping[str, Any]) -> str:
    return json.dumps(_finite(dict(record)), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _end_of_whole_lines(file: FileIO) -> int:
    """Find where the next line begins: after the last newline, since a kill may have cut a line off."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        newline = file.read(end - start).rfind(b'\n')
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
