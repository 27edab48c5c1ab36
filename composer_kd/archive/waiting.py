"""One process at a time, by a lock that the system releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from composer_kd.archive.files import make_folder, open_own, writing_to

__all__ = ['locked']


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file ``path`` (created, and left there) for the duration of the block.

    Yields whether it is held: always, unless ``wait`` is false and somebody else holds it.
    """
    make_folder(path.parent)
    with writing_to(path.parent):
        descriptor = open_own(path, os.O_RDWR)
    held = False
    try:
        with suppress(BlockingIOError):  # Only without waiting.
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        yield held
    finally:
        if held:
            # Explicitly: a loader worker that was forked meanwhile has the descriptor too, and would hold the lock on.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
