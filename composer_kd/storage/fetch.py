"""Files of a data set that lie elsewhere: brought here by Streaming's downloaders, and believed once verified."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import xxhash

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import make_folder, writing_to
from composer_kd.storage.locks import locked

__all__ = ['Fetcher', 'default_cache', 'is_remote']

_MISSING = ('404', 'NoSuchKey', 'NotFound', 'not found', 'does not exist')

log = logging.getLogger(__name__)


def default_cache() -> Path:
    """``$COMPOSER_KD_CACHE``, else ``~/.cache/composer_kd``."""
    return Path(os.environ.get('COMPOSER_KD_CACHE') or '~/.cache/composer_kd').expanduser().absolute()


def is_remote(source: str) -> bool:
    """Whether ``source`` is a URL rather than a path."""
    return '://' in source or source.startswith('dbfs:')


class Fetcher:
    """Copies files from one remote folder into one local folder, under the same relative names.

    Args:
        remote: A URL that Streaming knows, ``file://`` with an absolute path, or a local folder.
        cache: Downloads go to a folder of their own in here, named by the remote.
    """

    def __init__(self, remote: str, cache: Path):
        self.remote = remote.rstrip('/')
        self.folder = cache / 'downloads' / xxhash.xxh3_64_hexdigest(self.remote)

    def fetch(self, name: str, check: Callable[[Path], str | None] | None = None) -> Path:
        """The local path of a file, downloaded unless it is there and passes ``check``.

        Args:
            name: The file's path below the remote folder.
            check: Returns what is wrong with a file, or ``None``. A download that fails it is tried once more: the
                second failure is the remote's own. Without a check the file is always fetched anew, and an earlier
                copy serves when that fails.

        Raises:
            FileNotFoundError: The remote has no such file, and no copy is here.
            UserError: It cannot be downloaded for another reason.
        """
        local = self.folder / name
        make_folder(local.parent)
        with locked(local.parent / '.fetch.lock'):
            if check is None:
                try:
                    self._download(name, local)
                except (FileNotFoundError, UserError):
                    if not local.exists():
                        raise
                    log.warning('%s: cannot be reached; using the copy of an earlier download', self.remote)
                return local
            if local.exists() and check(local) is None:
                return local
            for _ in range(2):
                self._download(name, local)
                problem = check(local)
                if problem is None:
                    return local
                local.unlink()
        raise UserError(f'{self.remote}/{name}: {problem}, in two downloads; the remote copy is damaged')

    def _download(self, name: str, local: Path) -> None:
        from streaming.base.storage import CloudDownloader

        # Streaming takes a file that exists for downloaded, whatever is in it: fetch to a fresh name, then rename.
        fresh = local.with_name(f'.{local.name}.{os.getpid()}.fetch')
        source = self.remote.removeprefix('file://')
        try:
            with writing_to(self.folder):
                downloader = CloudDownloader.get(source)
                downloader.download(f'{source}/{name}', str(fresh), timeout=60)
                downloader.clean_up()
                os.replace(fresh, local)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f'{self.remote}: this remote needs a package that is not installed: {error}') from None
        except Exception as error:  # each cloud's own exception classes, of packages that need not be installed
            if 'Unsupported remote' in str(error):
                known = 's3, gs, oci, azure, hf, sftp, dbfs, file and others that Streaming supports'
                raise UserError(f'{self.remote}: not a remote that Streaming can read; known: {known}') from None
            reason = str(error).strip().partition('\n')[0] or type(error).__name__
            line = f'{self.remote}/{name}: cannot be downloaded: {reason}'
            # A file that is missing may be an optional one; a network that is down must not pass for that.
            if isinstance(error, FileNotFoundError) or any(word in str(error) for word in _MISSING):
                raise FileNotFoundError(line) from error
            raise UserError(f'{line}; check the network, the address and the rights') from error
        finally:
            for leftover in (fresh, fresh.with_name(fresh.name + '.tmp')):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)
