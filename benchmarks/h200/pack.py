"""Image data in pieces that are small enough to carry, and whole again on the other side.

    python -m benchmarks.h200.pack pack cifar100.npz pieces/ [--megabytes 25]
    python -m benchmarks.h200.pack unpack pieces/*.npz --keep data/pieces --into data/cifar100.npz

The .npz is what `composer-kd convert` reads: images (uint8), labels, split, perhaps classes. A piece is an .npz too:
its share of the images as lossless WebP (strips of a hundred, one below the other, about half of their bytes), with
their labels and splits, `rows`, which says where they stood, and `of`, how many images there are in all. Pieces may
come in any order and in several calls: they are kept until the last one is there, then the .npz is written.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer_kd.core.errors import UserError
from composer_kd.storage.atomic import replacing

# WebP is at most 16,383 pixels high.
STRIP, HIGHEST = 100, 16_383

Arrays = dict[str, NDArray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    packing = commands.add_parser('pack')
    packing.add_argument('source', type=Path)
    packing.add_argument('folder', type=Path)
    packing.add_argument('--megabytes', type=float, default=25, help='of a piece, at most (default: 25)')
    unpacking = commands.add_parser('unpack')
    unpacking.add_argument('pieces', type=Path, nargs='*')
    unpacking.add_argument('--keep', type=Path, required=True, help='where pieces wait for each other')
    unpacking.add_argument('--into', type=Path, required=True)
    options = parser.parse_args()
    try:
        if options.command == 'pack':
            for piece in pack(options.source, options.folder, options.megabytes):
                print(f'{piece}: {piece.stat().st_size / 1e6:.1f} MB')
            return 0
        missing = unpack(options.pieces, options.keep, options.into)
        print(f'{missing:,} images are still to come' if missing else f'{options.into}: whole')
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


def pack(source: Path, folder: Path, megabytes: float) -> Iterator[Path]:
    """Write the pieces of a data set; images of a class side by side, for they compress better."""
    with np.load(source) as arrays:
        whole = {name: arrays[name] for name in arrays.files}
    images, labels = whole['images'], whole['labels']
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise UserError(f'{source}: images are uint8 of shape [N, H, W] or [N, H, W, 1 or 3], got {images.shape}')
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(labels, kind='stable')
    strips: list[bytes] = []
    first = number = 0
    size = _strip_size(images.shape)
    for start in range(0, len(order), size):
        strip = _encoded(images[order[start : start + size]])
        if strips and sum(map(len, strips)) + len(strip) > 1e6 * megabytes:
            yield _write(folder / f'{source.stem}-{number:02d}.npz', whole, order[first:start], strips)
            first, number, strips = start, number + 1, []
        strips.append(strip)
    yield _write(folder / f'{source.stem}-{number:02d}.npz', whole, order[first:], strips)


def _write(path: Path, whole: Arrays, rows: NDArray[np.int64], strips: list[bytes]) -> Path:
    names = {'classes': whole['classes']} if 'classes' in whole else {}
    np.savez(
        path,
        strips=np.frombuffer(b''.join(strips), np.uint8),
        lengths=np.array([len(strip) for strip in strips], np.int64),
        rows=rows,
        labels=whole['labels'][rows],
        split=whole['split'][rows],
        of=np.array(whole['images'].shape, np.int64),
        **names,
    )
    return path


def unpack(pieces: list[Path], keep: Path, into: Path) -> int:
    """Take some pieces in; how many images are missing. The data set is written when none is."""
    keep.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        if piece.parent.resolve() != keep.resolve():
            shutil.copy(piece, keep / piece.name)
    held = [_read(path) for path in sorted(keep.glob('*.npz'))]
    if not held:
        raise UserError(f'{keep}: there is no piece; give those that `pack` wrote')
    shape = tuple(held[0]['of'].tolist())
    if any(tuple(one['of'].tolist()) != shape for one in held):
        raise UserError(f'{keep}: pieces of different data sets; keep each in a folder of its own')
    known = np.unique(np.concatenate([one['rows'] for one in held]))
    if len(known) < shape[0]:
        return shape[0] - len(known)
    images = np.zeros(shape, np.uint8)
    labels, split = (np.zeros(shape[0], held[0][name].dtype) for name in ('labels', 'split'))
    size = _strip_size(shape)
    for one in held:
        rows = one['rows']
        labels[rows], split[rows] = one['labels'], one['split']
        ends = one['lengths'].cumsum()
        for place, (end, length) in enumerate(zip(ends.tolist(), one['lengths'].tolist(), strict=True)):
            some = rows[size * place : size * (place + 1)]
            images[some] = _decoded(one['strips'][end - length : end].tobytes(), (len(some), *shape[1:]))
    into.parent.mkdir(parents=True, exist_ok=True)
    names = {'classes': held[0]['classes']} if 'classes' in held[0] else {}
    with replacing(into) as temporary, open(temporary, 'wb') as file:
        np.savez(file, images=images, labels=labels, split=split, **names)
    return 0


def _read(path: Path) -> Arrays:
    with np.load(path) as arrays:
        if 'rows' not in arrays.files:
            raise UserError(f'{path}: no piece that `pack` wrote')
        return {name: arrays[name] for name in arrays.files}


def _strip_size(shape: tuple[int, ...]) -> int:
    return max(1, min(STRIP, HIGHEST // shape[1]))


def _encoded(images: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    strip = images.reshape(-1, *images.shape[2:])
    strip = np.broadcast_to(strip.reshape(*strip.shape[:2], -1), (*strip.shape[:2], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(strip)).save(buffer, 'WEBP', lossless=True, quality=90, method=4, exact=True)
    return buffer.getvalue()


def _decoded(strip: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(strip)).convert('RGB'))
    channels = shape[3] if len(shape) == 4 else 1
    return pixels[..., :channels].reshape(shape)


if __name__ == '__main__':
    raise SystemExit(main())
