"""Drifts over the parts of a data set: samples and labels at once, pixels once and for all, or as they are streamed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import xxhash
from torch import Tensor

from composer_kd.archive.evaluations import drifts_hash
from composer_kd.core.errors import UserError
from composer_kd.data.cache import kept
from composer_kd.data.dataset import DatasetInfo
from composer_kd.data.drift.base import Drift, SampleSet, effective_drifts
from composer_kd.data.drift.base import Part as PartName
from composer_kd.data.split import Part, Transformed

__all__ = ['drifted']

# Part of the folder's name: painted pixels of another layout are left alone.
_LAYOUT = 'v2'
# So many bytes of images at once: their float32 copies stay in the processor's cache.
_CHUNK = 250 * 3 * 32 * 32


def drifted(
    parts: dict[str, Part], info: DatasetInfo, drifts: Sequence[Drift], cache: Path, where: str, paint: bool = True
) -> tuple[dict[str, Part], dict[str, DatasetInfo]]:
    """The parts and their info after the drifts, one after the other in their order.

    Args:
        parts: The training, validation and test part, or some of them, as they were divided before any drift.
        info: Of all of them.
        drifts: As the file gives them.
        cache: Where painted pixels live.
        where: The place of the drifts in the file, for error lines.
        paint: ``False`` leaves the pixels alone: to see whether the drifts fit the data.
    """
    changed, info_of = {}, {}
    for name, part in parts.items():
        part_name = cast(PartName, name)
        acting = effective_drifts(drifts, part_name)
        changed[name], info_of[name] = _one(part_name, part, info, acting, cache, where, paint)
    classes = {name: of_part.classes for name, of_part in info_of.items()}
    other = next((name for name in classes if classes[name] != classes.get('train', classes[name])), None)
    if other is not None:
        raise UserError(
            f'{where}: the train part has {len(classes["train"])} classes then and the {other} part '
            f'{len(classes[other])}; let what changes them act on all parts'
        )
    return changed, info_of


def _one(
    name: PartName, part: Part, info: DatasetInfo, drifts: Sequence[Drift], cache: Path, where: str, paint: bool
) -> tuple[Part, DatasetInfo]:
    if not drifts:
        return part, info
    undrifted = population = SampleSet(
        name, np.arange(len(part)), part.stored.ids, part.stored.hashes, part.stored.labels,
        info.classes, info.superclasses, info.coarse, np.ones(info.num_classes, np.bool_),
    )  # fmt: skip
    for drift in drifts:
        with _at(f'{where}: {drift.name}'):
            drift.check(undrifted, info.shape)
            population = drift.change(population)
            if len(population) == 0:
                raise UserError(f'it leaves no sample in the {name} part')
    described = [drift.description(name) for drift in drifts]
    info_after = replace(
        info,
        fingerprint=f'{info.fingerprint}-{drifts_hash(described)}',
        classes=population.classes,
        superclasses=population.superclasses,
        coarse=population.coarse,
        fine_classes=population.fine_classes,
    )
    left = replace(part.take(population.rows), labels=population.labels, fine=population.fine)
    painters = [drift for drift in drifts if drift.paints]
    if painters and paint:
        with _at(where):
            left = replace(left, painted=_painted(name, left, painters, info, cache), rows=np.arange(len(left)))
    return left, info_after


def _painted(name: PartName, part: Part, drifts: Sequence[Drift], info: DatasetInfo, cache: Path) -> Transformed:
    """What drifts make of a part: computed when it is first asked for, and read from then on; a stream's as it goes."""
    ids, marks = torch.from_numpy(part.stored.ids), part.table.hashes
    for drift in drifts:
        marks = drift.mark(marks, ids, name)
    paint = partial(_one_after_the_other, drifts=drifts, part=name)
    stored = part.split.cached
    if stored is None:
        return Transformed(marks, paint)
    identity = [
        _LAYOUT, info.fingerprint, 'test' if name == 'test' else 'train',
        xxhash.xxh3_128_hexdigest(part.positions.tobytes()), [drift.description(name) for drift in drifts],
    ]  # fmt: skip
    positions = torch.from_numpy(part.positions)

    def build(target: Path) -> None:
        size = max(1, _CHUNK // int(np.prod(stored.shape[1:])))
        with open(target / 'images.u8', 'wb') as file:
            for start in range(0, len(part), size):
                chunk = slice(start, start + size)
                images = paint(stored.index_select(0, positions[chunk]), ids[chunk])
                file.write(images.contiguous().numpy().tobytes())

    folder = kept(cache, f'drift-{xxhash.xxh3_128_hexdigest(json.dumps(identity, sort_keys=True))}', build)
    shape = (len(part), *stored.shape[1:])
    # Private pages: nothing that writes to a batch can reach the file.
    pixels = torch.from_file(str(folder / 'images.u8'), shared=False, size=int(np.prod(shape)), dtype=torch.uint8)
    return Transformed(marks, paint, pixels.view(shape))


def _one_after_the_other(images: Tensor, ids: Tensor, drifts: Sequence[Drift], part: PartName) -> Tensor:
    for drift in drifts:
        images = drift.paint(images, ids, part)
    return images


@contextmanager
def _at(place: str):
    """Put the place in the file before an error line."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{place}: {error}') from None
