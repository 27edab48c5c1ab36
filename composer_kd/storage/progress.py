"""Progress bars for decoding and writing images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ['progress']

T = TypeVar('T')


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` with a progress bar titled ``what``, on rank 0 and only in a terminal."""
    from tqdm import tqdm

    quiet = True if os.environ.get('LOCAL_RANK', '0') != '0' else None  # None: only when not a terminal
    return iter(tqdm(items, desc=what, total=total, disable=quiet, unit=' images', leave=False, mininterval=0.5))
