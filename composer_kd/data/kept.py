"""Folders derived from the data once and kept: built by one process, whole or not there, verified when opened."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from composer_kd.archive.files import atomic_write, make_folder, sync_folder, writing_to, xxh3_of
from composer_kd.archive.waiting import locked

__all__ = ['kept']

log = logging.getLogger(__name__)

_MANIFEST = 'kept.json'


def kept(cache: Path, name: str, build: Callable[[Path], None]) -> Path:
    """The folder ``cache/name``, built when it is not there or when a file in it is no longer what was written.

    Any number of processes may ask at once: one builds, the others wait. A build that is killed leaves a folder of
    another name, which the next one removes.

    Args:
        cache: The cache folder.
        name: Names everything that the content depends on.
        build: Writes the files into the (empty) folder that it is given.
    """
    folder = cache / name
    if folder.exists() and problem_of(folder) is None:  # also where the cache may be read and not written
        return folder
    with locked(cache / f'.{name}.lock'):
        if folder.exists():
            problem = problem_of(folder)
            if problem is None:
                return folder
            log.warning('%s: damaged; it is built again', problem)
            with writing_to(folder):
                shutil.rmtree(folder)
        building = cache / f'.{name}.building'
        if building.exists():
            shutil.rmtree(building)
        make_folder(building)
        try:
            with writing_to(cache):
                build(building)
                files = sorted(path for path in building.rglob('*') if path.is_file())
                listed = {
                    str(path.relative_to(building)): {'bytes': path.stat().st_size, 'xxh3': xxh3_of(path)}
                    for path in files
                }
                atomic_write(building / _MANIFEST, json.dumps({'files': listed}, indent=1))
                building.rename(folder)
                sync_folder(cache)
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(building)
            raise
    return folder


def problem_of(folder: Path) -> str | None:
    """The file in a kept folder that is not what was written, and why; ``None`` when all is well."""
    manifest = folder / _MANIFEST
    try:
        listed = json.loads(manifest.read_bytes())['files']
        for name, expected in listed.items():
            path = folder / name
            if not path.is_file():
                return f'{path} (missing)'
            if path.stat().st_size != expected['bytes'] or xxh3_of(path) != expected['xxh3']:
                return f'{path} (its content is not what was written)'
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f'{manifest} (unreadable)'
    return None
