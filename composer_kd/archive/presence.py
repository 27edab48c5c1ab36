"""How many runs share this machine: a held lock file a run, in a folder that all of a user's processes find."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

__all__ = ['Presence']


class Presence:
    """While a run trains, it holds a lock that others can see; the system drops it when the process dies.

    Seconds that are measured while other runs use the same machine are not those of a run alone, and a table must
    say so. Ranks of one launch count once.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or Path(tempfile.gettempdir()) / f'composer_kd-runs-{os.getuid()}'
        self._file: int | None = None
        self._path: Path | None = None

    def __enter__(self) -> Presence:
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
