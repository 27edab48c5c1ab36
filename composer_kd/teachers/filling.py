"""Computing what an archive lacks, once, and keeping it: the second run of a sweep finds it there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from composer_kd.archive import Archive, Samples
from composer_kd.archive.waiting import locked
from composer_kd.data.transform import Prepare
from composer_kd.errors import UserError
from composer_kd.functional.top_k import keep_top, to_half
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['encoded', 'fill_view', 'logits_of_view', 'precision_of']

# Images in one forward pass: without gradients more fit than in a training batch.
_CHUNK = 500


def fill_view(teacher: RecordedTeacher, state: Any, view: int, wanted: NDArray[np.bool_]) -> int:
    """Record what a teacher's archive lacks of a view; all ranks call it together.

    One process at a time fills a view of an archive. Another one that wants the same view waits, and then finds it.

    Args:
        teacher: One with ``fill``; its live model computes.
        state: The trainer's.
        view: The view.
        wanted: Which rows of the training data the epoch asks for.

    Returns:
        Images that the model computed on this rank.
    """
    archive, dataset = teacher.archive, state.train_dataloader.dataset
    assert teacher.manifest.weights is not None
    with _held_by_rank_zero(archive, view):
        missing = np.flatnonzero(wanted & ~_known(teacher, dataset, view))
        mine = missing[dist.get_global_rank() :: dist.get_world_size()]
        if len(mine):
            begun = time.perf_counter()
            top_k = _form(archive)
            columns, clipped = encoded(logits_of_view(teacher, state, view, mine), top_k)
            archive.put(
                'logits',
                view,
                _some(dataset, mine),
                columns,
                {
                    'augmentation': asdict(dataset.augmentation),
                    'classes': int(dataset.num_classes),
                    'top_k': top_k,
                    'precision': precision_of(state),
                    'weights': teacher.manifest.weights.hash,
                    'source': 'fill',
                },
                counts={
                    'clipped': clipped,
                    'images': len(mine),
                    'seconds': round(time.perf_counter() - begun, 3),
                    'multiply_adds': len(mine) * teacher.multiply_adds(dataset.facts.shape),
                },
            )
        dist.barrier()
    return len(mine)


def encoded(logits: Tensor, top_k: int | None) -> tuple[dict[str, Tensor], int]:
    """The columns that hold some logits in an archive, whole or the top k of them, and how many values were clipped."""
    half, clipped = to_half(logits)
    if top_k is None:
        return {'logits': half}, int(clipped)
    values, indices, rest = keep_top(half.float(), top_k)
    return {'values': values, 'indices': indices, 'rest': rest}, int(clipped)


def _form(archive: Archive) -> int | None:
    """Whether the archive's other views are whole (``None``) or the top k logits: a new one is like them."""
    views = archive.views if archive.exists else []
    return archive.facts('logits', views[0]).get('top_k') if views else None


def logits_of_view(teacher: RecordedTeacher, state: Any, view: int, rows: NDArray[np.int64]) -> Tensor:
    """float32 logits ``[n, C]`` on the host: the live model on some rows of the training data in one view."""
    dataset = state.train_dataloader.dataset
    prepare = Prepare(dataset.augmentation, *dataset.normalization)
    parts = []
    for first in range(0, len(rows), _CHUNK):
        packed = rows[first : first + _CHUNK] + len(dataset) * view
        batch = prepare(state.device.batch_to_device(dataset.__getitems__(packed.tolist())))
        parts.append(teacher.compute(batch, state).cpu())
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        raise UserError(
            f'teacher {teacher.name!r} gives NaN or infinite outputs; check its weights, and try precision: fp32'
        )
    return logits


def _known(teacher: RecordedTeacher, dataset: Any, view: int) -> NDArray[np.bool_]:
    """Which rows of the data set the archive has by now: another process may have filled it."""
    rows = teacher.rows(dataset)
    if not teacher.archive.exists or view not in teacher.archive.views:
        return np.zeros(len(rows), bool)
    seen = teacher.archive.table('logits', view)['seen'].numpy()
    inside = (rows >= 0) & (rows < len(seen))
    return inside & (seen[np.where(inside, rows, 0)] != 0)


def precision_of(state: Any) -> str:
    """What a run's configuration calls the precision of its forward passes: ``fp32``, ``bf16`` or ``fp16``."""
    model = state.model.module if isinstance(state.model, DistributedDataParallel) else state.model
    if getattr(model, 'cpu_autocast', False):
        return 'bf16'
    return {'amp_bf16': 'bf16', 'amp_fp16': 'fp16'}.get(state.precision.value, 'fp32')


def _some(dataset: Any, rows: NDArray[np.int64]) -> Samples:
    samples = Samples.of(dataset)
    return Samples(samples.ids[rows], samples.content[rows], samples.labels[rows])


@contextmanager
def _held_by_rank_zero(archive: Archive, view: int) -> Iterator[None]:
    """A lock that all ranks of one launch hold together: no rank goes on before rank 0 has it."""
    if dist.get_global_rank() != 0:
        dist.barrier()
        yield
        return
    with locked(archive.run.path / 'archive' / f'.view{view:04d}.lock'):
        dist.barrier()
        yield
