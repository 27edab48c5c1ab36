"""``composer-kd drift SOURCE --out FILE.png``: a contact sheet, a row a scenario, a column a severity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from composer_kd.core.errors import UserError, nearest
from composer_kd.data.cache import CachedSplit, open_cache
from composer_kd.data.drift.base import DRIFTS, Drift, SampleSet
from composer_kd.data.drift.corruption import Corruption
from composer_kd.data.drift.path import Path as DriftPath
from composer_kd.data.loaders import open_source
from composer_kd.data.section import DataSection
from composer_kd.data.shards import ShardFolder
from composer_kd.functional.corruptions import CORRUPTIONS, SEVERITIES
from composer_kd.storage.atomic import replacing

__all__ = ['contact_sheet', 'sheet_rows']

_SIDE, _GAP, _LABELS, _HEAD = 64, 8, 150, 24
_INK, _PAPER = (40, 44, 52), (255, 255, 255)
_RIGHT, _WRONG = (76, 120, 168), (214, 80, 70)

# What changes samples or labels is shown on the way to this, a path of five steps.
_SHOWN: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    'long_tail': (None, {'factor': 100.0}),
    'dirichlet': (None, {'alpha': 0.5}),
    'subpopulation': ({'side': 'source'}, {'side': 'target'}),
    'new_classes': ({'classes': 1}, {}),
    'growing': ({'share': 0.1}, {'share': 1.0}),
    'label_noise': (None, {'rate': 0.5}),
}


def sheet_rows() -> list[str]:
    """Everything that a sheet can show: the kinds of corruption, and the drifts of samples and labels."""
    return [*CORRUPTIONS, *_SHOWN]


def contact_sheet(
    source: str, out: Path, kinds: Sequence[str] = (), count: int = 3, seed: int = 0, cache_dir: str | None = None
) -> list[str]:
    """Draw ``count`` test images of ``source`` under each corruption, and classes' counts under each other drift.

    Args:
        source: As ``data.source``.
        out: The picture.
        kinds: The rows; all that the data can show by default.
        count: How many images a cell has.
        seed: Of the drifts.
        cache_dir: As ``data.cache_dir``.

    Returns:
        The rows that were drawn.
    """
    for kind in kinds:
        if kind not in sheet_rows():
            raise UserError(f'{kind!r} is not a row of the sheet; {nearest(kind, sheet_rows())}')
    section = DataSection(source=source, cache_dir=cache_dir)
    folder = open_source(section, 'drift')
    train, test = open_cache(folder, section.image_size, section.cache)
    everyone = _population(train, folder)
    rows = list(kinds) or [
        kind for kind in sheet_rows() if kind != 'subpopulation' or everyone.superclasses is not None
    ]
    drawn = [_pictures(kind, test, count, seed) if kind in CORRUPTIONS else _counts(kind, everyone, count, seed)
             for kind in rows]  # fmt: skip
    _save(rows, drawn, out)
    return rows


def _population(train: CachedSplit, folder: ShardFolder) -> SampleSet:
    table, described = train.table, folder.description
    classes = described.classes if described else [str(label) for label in range(int(table.labels.max()) + 1)]
    return SampleSet(
        'train', np.arange(len(table)), table.ids, table.hashes, table.labels, tuple(classes),
        tuple(described.superclasses) if described and described.superclasses else None,
        tuple(described.coarse) if described and described.coarse else None, np.ones(len(classes), np.bool_),
    )  # fmt: skip


def _pictures(kind: str, test: CachedSplit, count: int, seed: int) -> list[NDArray[np.uint8]]:
    """The first images of the test split beside each other, as they are and at every severity: [S, W, 3] each."""
    rows = torch.from_numpy(np.argsort(test.table.ids, kind='stable')[:count])
    images, ids = test.images.index_select(0, rows), torch.from_numpy(test.table.ids[rows.numpy()])
    severities = (Corruption(kind=kind, severity=severity, seed=seed) for severity in range(1, SEVERITIES + 1))
    cells = [images, *(drift.paint(images, ids, 'test') for drift in severities)]
    return [np.concatenate([_enlarged(image) for image in cell.numpy()], 1) for cell in cells]


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((_SIDE, _SIDE), Image.Resampling.NEAREST))


def _counts(kind: str, everyone: SampleSet, count: int, seed: int) -> list[NDArray[np.uint8]]:
    """How many training samples each class has, a bar a class, before and at every step of a path."""
    first, last = _SHOWN[kind]
    if kind == 'new_classes':
        first, last = {'classes': max(1, len(everyone.classes) // 10)}, {'classes': len(everyone.classes)}
    ends = {'from': None if first is None else _made(kind, first, seed), 'to': _made(kind, last, seed)}
    cells = [everyone]
    for step in range(1, SEVERITIES + 1):
        drift = DriftPath.model_validate({**ends, 'steps': SEVERITIES, 'step': step, 'seed': seed}).simplify()
        try:
            cells.append(everyone if drift is None else drift.change(everyone))
        except UserError as error:
            raise UserError(f'{kind}: {error}') from None
    highest = max(int(np.bincount(everyone.labels[cell.rows]).max()) for cell in cells)
    return [_bars(everyone, cell, highest, count * _SIDE) for cell in cells]


def _made(kind: str, options: dict[str, Any], seed: int) -> Drift:
    return DRIFTS.get(kind).model_validate({**options, 'seed': seed})


def _bars(before: SampleSet, after: SampleSet, highest: int, width: int) -> NDArray[np.uint8]:
    """By the classes that the data began with; on top, in another colour, those whose label is another class now."""
    classes = len(before.classes)
    own = before.labels[after.rows]
    wrong = after.labels != own if after.classes == before.classes else np.zeros(len(own), np.bool_)
    every, wrongs = (np.bincount(labels, minlength=classes) for labels in (own, own[wrong]))
    tops, middles = (np.ceil(counts * (_SIDE / highest)).astype(int) for counts in (every, every - wrongs))
    cell = np.full((_SIDE, width, 3), 244, np.uint8)
    for column in range(width):
        label = column * classes // width
        cell[_SIDE - tops[label] :, column] = _WRONG
        cell[_SIDE - middles[label] :, column] = _RIGHT
    return cell


def _save(rows: Sequence[str], drawn: Sequence[Sequence[NDArray[np.uint8]]], out: Path) -> None:
    from PIL import Image, ImageDraw, ImageFont

    width = drawn[0][0].shape[1]
    size = (_LABELS + (width + _GAP) * (SEVERITIES + 1), _HEAD + (_SIDE + _GAP) * len(rows))
    sheet = Image.new('RGB', size, _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column in range(SEVERITIES + 1):
        left = _LABELS + column * (width + _GAP)
        pen.text((left, 6), 'stored' if column == 0 else str(column), _INK, font)
        for row, cells in enumerate(drawn):
            sheet.paste(Image.fromarray(cells[column]), (left, _HEAD + row * (_SIDE + _GAP)))
    for row, name in enumerate(rows):
        pen.text((8, _HEAD + row * (_SIDE + _GAP) + _SIDE // 2 - 6), name, _INK, font)
    with replacing(out) as temporary:
        sheet.save(temporary, 'PNG', optimize=True)
