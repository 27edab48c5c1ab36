"""One process at a time, by a lock that the system releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer_kd.archive.files import make_folder, writing_to

__all__ = ['locked']


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path`` (created, and left there) for the duration of the block."""
    make_folder(path.parent)
    with writing_to(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Explicitly: a loader worker that was forked meanwhile has the descriptor too, and would hold the lock on.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
