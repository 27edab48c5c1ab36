"""One process at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from composer_kd.archive.files import open_own, writing_to
from composer_kd.errors import UserError

__all__ = ['locked']

_held: set[int] = set()


def _close_in_child() -> None:
    # flock belongs to the open file, which a forked loader worker inherits: it would outlive its parent there.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked(file: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``file`` for the length of the block; the system lets go of it when the process dies.

    The file stays behind, empty: removing it would let two processes each hold a lock on a different file of that name.

    Args:
        file: The lock file; it is created where it does not exist, its folder must.
        what: What is locked, for the error line: the path of the run directory.
    """
    owner = os.getpid()
    with writing_to(Path(file).parent):
        descriptor = open_own(file, os.O_RDWR)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f'{what} is in use{_holder(descriptor)}; wait for it to end, or choose another folder'
            ) from None
        with writing_to(Path(file).parent):
            _describe(descriptor)
        yield
        if os.getpid() == owner:
            os.ftruncate(descriptor, 0)
    finally:
        # A forked child that leaves the block has no descriptor any more; the number may mean another file there.
        if os.getpid() == owner:
            _held.discard(descriptor)
            os.close(descriptor)


def _describe(descriptor: int) -> None:
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    text = f'pid: {os.getpid()}\nhost: {socket.gethostname()}\nsince: "{since}"\n'
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as the file tells: it may be read in the moment before it is filled."""
    try:
        told = yaml.safe_load(os.pread(descriptor, 1000, 0))
        return f' by process {told["pid"]} on {told["host"]} since {told["since"]}'
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return ''
