"""Downloads from remotes with Streaming's downloaders; a file is used once it is verified."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import xxhash

from composer_kd.core.errors import UserError, first_line
from composer_kd.storage.atomic import make_folder, writing_to
from composer_kd.storage.locks import locked

__all__ = ['Fetcher', 'default_cache', 'is_remote']

_MISSING = ('404', 'NoSuchKey', 'NotFound', 'not found', 'does not exist')

log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Return ``$COMPOSER_KD_CACHE``, else ``~/.cache/composer_kd``."""
    return Path(os.environ.get('COMPOSER_KD_CACHE') or '~/.cache/composer_kd').expanduser().absolute()


def is_remote(source: str) -> bool:
    """Tell whether ``source`` is a URL rather than a path."""
    return '://' in source or source.startswith('dbfs:')


class Fetcher:
    """Download files from one remote folder into one local folder, under the same relative names.

    Args:
        remote: A URL that Streaming knows, ``file://`` with an absolute path, or a local folder.
        cache: The folder in which downloads go to a subfolder named by a hash of the remote.
    """

    def __init__(self, remote: str, cache: Path):
        self.remote = remote.rstrip('/')
        self.folder = cache / 'downloads' / xxhash.xxh3_64_hexdigest(self.remote)

    def fetch(self, name: str, check: Callable[[Path], str | None] | None = None) -> Path:
        """Return the local path of a file; download it unless it is there and passes ``check``.

        Args:
            name: The file's path below the remote folder.
            check: Returns what is wrong with a file, or ``None``. A download that fails it is repeated once: if that
                fails too, the remote copy is damaged. Without a check the file is always downloaded anew, and an
                earlier copy is used when that fails.

        Raises:
            FileNotFoundError: The remote has no such file, and there is no local copy.
            UserError: The download failed for another reason.
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
                    log.warning('%s: cannot be reached; using an earlier download', self.remote)
                return local
            if local.exists() and check(local) is None:
                return local
            for _ in range(2):
                self._download(name, local)
                problem = check(local)
                if problem is None:
                    return local
                local.unlink()
        raise UserError(f'{self.remote}/{name}: {problem} in two downloads: the remote copy is damaged; restore it')

    def _download(self, name: str, local: Path) -> None:
        from streaming.base.storage import CloudDownloader

        # Streaming takes any existing file for a finished download: fetch to a temporary name, then rename.
        temporary = local.with_name(f'.{local.name}.{os.getpid()}.fetch')
        source = self.remote.removeprefix('file://')
        try:
            with writing_to(self.folder):
                downloader = CloudDownloader.get(source)
                downloader.download(f'{source}/{name}', str(temporary), timeout=60)
                downloader.clean_up()
                os.replace(temporary, local)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f'{self.remote}: a package that this remote needs is not installed ({error}); install it'
            ) from None
        except Exception as error:  # Each cloud has its own classes, in packages that may be missing.
            if 'Unsupported remote' in str(error):
                known = 's3, gs, oci, azure, hf, sftp, dbfs, file and others that Streaming supports'
                raise UserError(f'{self.remote}: Streaming cannot read this remote; known: {known}') from None
            reason = first_line(error)
            line = f'{self.remote}/{name}: cannot be downloaded: {reason}'
            # A missing file may be an optional one; a network failure must not look like that.
            if isinstance(error, FileNotFoundError) or any(word in str(error) for word in _MISSING):
                raise FileNotFoundError(line) from error
            raise UserError(f'{line}; check the network, the address and your permissions') from error
        finally:
            for leftover in (temporary, temporary.with_name(temporary.name + '.tmp')):
                with suppress(OSError):
                    leftover.unlink(missing_ok=True)
