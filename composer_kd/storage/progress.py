"""A progress bar on one rank, and on none where nobody watches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ['progress']

T = TypeVar('T')


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass ``items`` on under a bar titled ``what``, on rank 0 and when the output is a terminal."""
    from tqdm import tqdm

    quiet = True if os.environ.get('LOCAL_RANK', '0') != '0' else None  # None: only when not a terminal
    return iter(tqdm(items, desc=what, total=total, disable=quiet, unit=' images', leave=False, mininterval=0.5))
