"""One process at a time in a run directory."""

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

_held: set[int] = set()


def _close_in_child() -> None:
    # flock belongs to the open file, which a forked loader worker inherits: it would outlive its parent there.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def lock_or_refuse(file: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Hold an exclusive lock on ``file`` for the length of the block; the system lets go of it when the process dies.

    The file stays behind, empty: removing it would let two processes each hold a lock on a different file of that name.

    Args:
        file: The lock file; it is created where it does not exist, its folder must.
        what: What is lock_or_refuse, for the error line: the path of the run directory.
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


class MachineLoad:
    """While a run trains, it holds a lock that others can see; the system drops it when the process dies.

    Seconds that are measured while other runs use the same machine are not those of a run alone, and a table must
    say so. Ranks of one launch count once.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or Path(tempfile.gettempdir()) / f'composer_kd-runs-{os.getuid()}'
        self._file: int | None = None
        self._path: Path | None = None

    def __enter__(self) -> MachineLoad:
        if os.environ.get('LOCAL_RANK', '0') != '0':
            return self
        with suppress(OSError):  # Counting is a courtesy: without a writable folder the run counts as alone.
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
        """Runs that are training on this machine now, this one included."""
        others = 0
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path != self._path and _is_held(path):
                    others += 1
        return others + 1


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
        path.unlink(missing_ok=True)  # Its owner died without cleaning up.
        return False
    finally:
        os.close(descriptor)
