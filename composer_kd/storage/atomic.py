"""Atomic writes: a file is written under a temporary name in the same folder, fsynced, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from secrets import token_hex

import xxhash

from composer_kd.core.errors import UserError

__all__ = [
    'atomic_write',
    'is_whole_zip',
    'make_folder',
    'open_own',
    'refuse_links_out',
    'replacing',
    'sweep',
    'sync_folder',
    'temporary_name',
    'writing_to',
    'xxh3_of',
]

# Seconds after which no writer can still be alive, on whatever host and with whatever clock.
_ABANDONED = 24 * 3600

_REASONS = {
    errno.ENOSPC: 'the disk is full; free some space there or choose another folder',
    errno.EDQUOT: 'the disk quota is used up; free some space there or choose another folder',
    errno.EFBIG: 'the file would be larger than this system allows; raise the limit or choose another folder',
    errno.EROFS: 'the file system is read-only; choose another folder',
    errno.EACCES: 'there is no permission to write; change it or choose another folder',
    errno.EPERM: 'there is no permission to write; change it or choose another folder',
    errno.ENOTDIR: 'a part of this path is a file, not a folder; choose another folder',
    errno.EEXIST: 'this is a file, not a folder; choose another folder',
    errno.EIO: 'the disk reports an error; check it or choose another folder',
}


@contextmanager
def writing_to(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a one-line :class:`UserError` about ``folder``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise UserError(f'{os.fspath(folder)}: cannot write: {_REASONS[error.errno]}') from error


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder and its parents where they do not exist, and return its path."""
    with writing_to(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def refuse_links_out(folder: str | os.PathLike[str], *names: str) -> None:
    """Refuse symbolic links out of ``folder`` in the subfolders ``names``, before anything is written there.

    ``folder`` itself may be a link: the user chose where it lies.
    """
    root = Path(folder).resolve()
    for name in names:
        for path in (root / name, *(root / name).rglob('*')):
            if path.is_symlink() and root not in path.resolve().parents:
                raise UserError(
                    f'{Path(folder) / path.relative_to(root)}: a symbolic link out of {os.fspath(folder)}; '
                    f'nothing is written through it: remove it'
                )


def open_own(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """Open or create a file for writing; refuse a symbolic link in its place."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f'{os.fspath(path)}: a symbolic link; nothing is written through it: remove it') from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` when the block ends without an error.

    On any error, Ctrl-C included, the temporary file is removed and ``path`` is as it was. The next writer of ``path``
    removes what a killed one has left. The folder is created if it does not exist.

    Example:
        >>> with replacing('runs/gen0/report.html') as temporary:
        ...     temporary.write_text(page)
    """
    path = Path(path)
    folder = make_folder(path.parent)
    # Not tempfile: its files are 0600 whatever the umask, and a run directory is meant to be shared.
    temporary = folder / temporary_name(path.name, 'tmp')
    sweep(folder, path.name, 'tmp')
    try:
        with writing_to(folder):
            yield temporary
            with open(temporary, 'rb') as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(folder)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(name: str, ending: str) -> str:
    """Make the name of an unfinished file or folder: ``.NAME.PID-HOST-RANDOM.ENDING``."""
    return f'.{name}.{os.getpid()}-{_host()}-{token_hex(4)}.{ending}'


def sweep(folder: Path, name: str | None, ending: str) -> None:
    """Remove the temporary files and folders that killed writers of ``name`` (``None``: of any) left in ``folder``.

    Several hosts and containers may write to a folder, and a process number means something on its own host only: what
    was begun on this host goes when its process has ended. What was begun elsewhere, before a reboot or by an earlier
    version goes when nothing in it has been written for a day.
    """
    named = '.+' if name is None else re.escape(name)
    pattern = re.compile(rf'\.{named}\.([1-9]\d{{0,9}})-(?:([0-9a-f]{{8}})-)?[0-9a-f]{{8}}\.{ending}')
    with suppress(OSError):  # A failure to clean up must not keep anyone from writing.
        for path in folder.iterdir():
            if (match := pattern.fullmatch(path.name)) is None:
                continue
            ended = match[2] == _host() and not _is_running(int(match[1]))
            with suppress(OSError):  # Another process may be cleaning up as well.
                last_written = max(one.lstat().st_mtime for one in (path, *path.rglob('*')))
                if ended or time.time() - last_written > _ABANDONED:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@cache
def _host() -> str:
    """Identify the place in which a process number is valid: this boot of the kernel and its namespace of processes."""
    try:
        identity = Path('/proc/sys/kernel/random/boot_id').read_text() + os.readlink('/proc/self/ns/pid')
    except OSError:  # Not Linux.
        identity = socket.gethostname()
    return xxhash.xxh3_64_hexdigest(identity)[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # Another user's process.
        pass
    return True


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path``, all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames and new names in ``folder`` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def xxh3_of(path: str | os.PathLike[str]) -> str:
    """Hash a file's bytes with 128-bit xxh3, to 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_whole_zip(path: str | os.PathLike[str]) -> bool:
    """Tell whether all records of a ZIP archive, which is what ``torch.save`` writes, match their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    # zipfile raises any of these for damaged headers.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, NotImplementedError):
        return False
