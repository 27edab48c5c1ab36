"""A data set decoded once into one memory-mapped uint8 file a split, named by the fingerprint of the shards."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.data.dataset import SampleTable, TableBuilder, resize
from composer_kd.data.shards import ShardFolder, Split
from composer_kd.storage.atomic import atomic_write, make_folder, sync_folder, writing_to, xxh3_of
from composer_kd.storage.locks import locked
from composer_kd.storage.progress import progress

__all__ = ['CachedSplit', 'check_one_size', 'check_same_shape', 'kept', 'open_cache', 'open_table']

# Part of the folder's name: a cache of another layout is left alone and a new one is built.
_LAYOUT = 'v1'


@dataclass(frozen=True)
class CachedSplit:
    """The decoded images of one split, in the order of the shards.

    Attributes:
        images: uint8 [N, C, H, W], memory-mapped: pages are read when they are first touched.
        table: What is known of each, counted from the stored pixels (before any resizing).
    """

    images: Tensor
    table: SampleTable


def open_cache(folder: ShardFolder, image_size: int | None, cache: Path) -> tuple[CachedSplit, CachedSplit]:
    """The train and the test split of ``folder``, decoded; the shards are verified when that happens.

    Args:
        folder: The shards.
        image_size: Resize to this square; ``None`` demands that all images have one size.
        cache: Where caches live.
    """
    name = f'images-{_LAYOUT}-{folder.fingerprint}' + (f'-{image_size}' if image_size else '')

    def build(target: Path) -> None:
        shapes = [_decode(split, target, image_size) for split in (folder.train, folder.test)]
        check_same_shape(folder.location, *shapes)

    built = kept(cache, name, build)
    return _open(built, 'train'), _open(built, 'test')


def open_table(folder: ShardFolder, split: Split, cache: Path) -> SampleTable:
    """The table of a split, for streaming: the one written with the shards, else counted once and kept."""
    table = folder.written_table(split)
    if table is not None:
        return table
    name = f'table-{_LAYOUT}-{folder.fingerprint}-{split.name}'
    return SampleTable.load(
        kept(cache, name, lambda target: split.scan().save(target / 'table.safetensors')) / ('table.safetensors')
    )


def _decode(split: Split, target: Path, image_size: int | None) -> tuple[int, ...]:
    """Write the images and the table of a split; returns the images' shape."""
    role = 'test' if split.name != 'train' else 'train'
    builder = TableBuilder()
    shape: tuple[int, ...] = ()
    with open(target / f'{role}.u8', 'wb') as file:
        for sample_id, label, image in progress(split.samples(), f'decoding {split.name}', len(split)):
            builder.add(sample_id, label, image)
            pixels = resize(image, image_size) if image_size else image
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise _mixed(split.folder, shape, sample_id, pixels.shape)
            file.write(pixels.tobytes())
    builder.finish().save(target / f'{role}.safetensors')
    (target / f'{role}.json').write_text(json.dumps(shape))
    return shape


def _open(built: Path, role: str) -> CachedSplit:
    table = SampleTable.load(built / f'{role}.safetensors')
    shape = json.loads((built / f'{role}.json').read_text())
    size = len(table) * int(np.prod(shape))
    # Private pages: nothing that writes to a batch can reach the file.
    pixels = torch.from_file(str(built / f'{role}.u8'), shared=False, size=size, dtype=torch.uint8)
    return CachedSplit(pixels.view(len(table), *shape), table)


def check_one_size(split: Split, table: SampleTable, image_size: int | None) -> tuple[int, ...]:
    """The shape of every image of a split as it will be batched; refuses mixed ones."""
    shapes = table.shapes.copy()
    if image_size:
        shapes[:, 1:] = image_size
    other = np.flatnonzero((shapes != shapes[0]).any(1))
    if len(other):
        row = int(other[0])
        raise _mixed(split.folder, tuple(shapes[0]), int(table.ids[row]), tuple(shapes[row]))
    return tuple(int(side) for side in shapes[0])


def check_same_shape(location: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    """Refuse a test split whose images are unlike those of the training split."""
    if train != test:
        raise UserError(
            f'{location}: images of mixed sizes: train has {_times(train)} and test {_times(test)}; '
            f'{_remedy(train, test)}'
        )


def _mixed(folder: Path, first: tuple[int, ...], sample_id: int, other: tuple[int, ...]) -> UserError:
    return UserError(
        f'{folder}: images of mixed sizes: the first is {_times(first)}, sample {sample_id} is {_times(other)}; '
        f'{_remedy(first, other)}'
    )


def _remedy(first: tuple[int, ...], other: tuple[int, ...]) -> str:
    if first[0] != other[0]:
        return 'convert all to grey or all to colour'
    return 'set data.image_size to resize them all'


def _times(shape: tuple[int, ...]) -> str:
    return 'x'.join(str(int(side)) for side in shape)


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
