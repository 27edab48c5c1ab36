"""File locks, and how many runs train on this machine."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import yaml

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import make_folder, open_own, writing_to

__all__ = ['MachineLoad', 'lock_or_refuse', 'locked']

_descriptors: set[int] = set()


def _close_in_child() -> None:
    # A forked loader worker inherits the open file and with it the lock, which would outlive the parent there.
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock_or_refuse(file: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``file`` during the block; refuse at once if another process holds it.

    The system releases the lock when the process dies. The file stays behind, empty: removing it would let two
    processes each lock a different file of that name.

    Args:
        file: The lock file; it is created if need be, in a folder that exists.
        what: What is being locked, for the error line: the path of the run directory.
    """
    owner = os.getpid()
    with writing_to(Path(file).parent):
        descriptor = open_own(file, os.O_RDWR)
    _descriptors.add(descriptor)
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
        # In a forked child the descriptor is closed, and its number may belong to another file by now.
        if os.getpid() == owner:
            _descriptors.discard(descriptor)
            os.close(descriptor)


def _describe(descriptor: int) -> None:
    since = time.strftime('%Y-%m-%d %H:%M:%S')
    text = f'pid: {os.getpid()}\nhost: {socket.gethostname()}\nsince: "{since}"\n'
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    """Describe who holds the lock; empty if the holder has not filled the file yet."""
    try:
        holder = yaml.safe_load(os.pread(descriptor, 1000, 0))
        return f' by process {holder["pid"]} on {holder["host"]} since {holder["since"]}'
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return ''


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on the file ``path`` during the block; the file is created, and stays.

    Yields whether the lock is held: always, unless ``wait`` is false and another process holds it.
    """
    make_folder(path.parent)
    with writing_to(path.parent):
        descriptor = open_own(path, os.O_RDWR)
    is_held = False
    try:
        with suppress(BlockingIOError):  # Raised only if not waiting.
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_held = True
        yield is_held
    finally:
        if is_held:
            # Closing alone would not release it: a loader worker that was forked meanwhile has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


class MachineLoad:
    """Count the runs that train on this machine: each holds a lock that the system drops when its process dies.

    Times that are measured while other runs use the machine are not those of a run alone, and a table must say so.
    Ranks of one launch count once.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or Path(tempfile.gettempdir()) / f'composer_kd-runs-{os.getuid()}'
        self._file: int | None = None
        self._path: Path | None = None

    def __enter__(self) -> MachineLoad:
        if os.environ.get('LOCAL_RANK', '0') != '0':
            return self
        with suppress(OSError):  # Without a writable folder the run counts as alone.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path = self.folder / str(os.getpid())
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def count(self) -> int:
        """Count the runs that are training on this machine now, this one included."""
        with suppress(OSError):
            return 1 + sum(path != self._path and _is_held(path) for path in self.folder.iterdir())
        return 1


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        path.unlink(missing_ok=True)  # Its process died without cleaning up.
        return False
    finally:
        os.close(descriptor)
