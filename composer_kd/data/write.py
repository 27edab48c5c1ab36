"""Writing a data set: MDS shards, a table of samples and ``dataset.json``, in a folder that is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from composer_kd.core.errors import UserError
from composer_kd.data.dataset import SampleTable, TableBuilder, mean_and_std
from composer_kd.data.shards import Description
from composer_kd.storage.atomic import make_folder, sweep, sync_folder, temporary_name, writing_to, xxh3_of
from composer_kd.storage.progress import progress

__all__ = ['Encoding', 'Images', 'Labelled', 'write_dataset', 'write_shards']

Encoding = Literal['png', 'ndarray']
Labelled = tuple[NDArray[np.uint8], int]


@dataclass(frozen=True)
class Images:
    """The samples of one split: pairs of an image, uint8 [H, W] or [H, W, C], and a label."""

    samples: Iterable[Labelled]
    count: int


def write_dataset(
    out: Path,
    splits: Mapping[str, Images],
    source: str,
    classes: Sequence[str],
    superclasses: Sequence[str] | None = None,
    coarse: Sequence[int] | None = None,
    encoding: Encoding = 'png',
    compression: str | None = None,
) -> Description:
    """Write all splits to ``out``, which must not exist or be empty.

    Everything is written to a folder beside it that takes its name at the end, so a killed conversion leaves nothing
    that could be taken for a data set. The next one to ``out`` removes what it left.
    """
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{out}: exists already; remove it or name another folder')
    make_folder(out.parent)
    building = out.parent / temporary_name(out.name, 'converting')
    sweep(out.parent, out.name, 'converting')
    try:
        description = write_shards(building, splits, source, classes, superclasses, coarse, encoding, compression)
        with writing_to(out.parent):
            if out.exists():
                out.rmdir()
            building.rename(out)
            sync_folder(out.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(building)
    return description


def write_shards(
    folder: Path,
    splits: Mapping[str, Images],
    source: str,
    classes: Sequence[str],
    superclasses: Sequence[str] | None = None,
    coarse: Sequence[int] | None = None,
    encoding: Encoding = 'png',
    compression: str | None = None,
) -> Description:
    """:func:`write_dataset` into a folder whose name and completeness are the caller's matter."""
    tables = {}
    for name, images in splits.items():
        with writing_to(folder):
            tables[name] = _write_split(folder / name, images, len(classes), encoding, compression)
    for name, table in tables.items():
        if len(table) == 0:
            raise UserError(f'{source}: the {name} split is empty; both train and test need samples')
    shapes = np.unique(np.concatenate([table.shapes for table in tables.values()]), axis=0)
    mean, std = mean_and_std(tables['train'])
    description = Description(
        source=source,
        classes=list(classes),
        superclasses=list(superclasses) if superclasses is not None else None,
        coarse=[int(number) for number in coarse] if coarse is not None else None,
        shape=shapes[0].tolist() if len(shapes) == 1 else None,
        mean=mean,
        std=std,
        splits={
            name: {
                'samples': len(table),
                'index': xxh3_of(folder / name / 'index.json'),
                'table': xxh3_of(folder / name / Description.TABLE),
            }
            for name, table in tables.items()
        },
    )
    description.write(folder)
    return description


def _write_split(
    folder: Path, images: Images, num_classes: int, encoding: Encoding, compression: str | None
) -> SampleTable:
    from streaming import MDSWriter

    make_folder(folder)
    builder = TableBuilder()
    columns = {'i': 'int', 'x': 'png' if encoding == 'png' else 'ndarray:uint8', 'y': 'int'}
    with MDSWriter(out=str(folder), columns=columns, compression=compression, hashes=['sha1', 'xxh64']) as writer:
        for number, (image, label) in enumerate(progress(images.samples, f'writing {folder.name}', images.count)):
            if not 0 <= label < num_classes:
                raise UserError(
                    f'{folder.name} sample {number}: label {label} is out of range; {num_classes} classes have '
                    f'labels 0 to {num_classes - 1}'
                )
            if not image.size:
                raise UserError(
                    f'{folder.name} sample {number}: an image without pixels, {list(image.shape)}; remove it'
                )
            image = np.ascontiguousarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
            writer.write({'i': number, 'x': _encoded(image, encoding), 'y': int(label)})
            builder.add(number, int(label), image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    table = builder.finish()
    table.save(folder / Description.TABLE)
    return table


def _encoded(image: NDArray[np.uint8], encoding: Encoding) -> Any:
    if encoding == 'ndarray':
        return image
    from PIL import Image

    return Image.fromarray(image)
