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
from composer_kd.archive.logit_parts import merge_logits, recorded_rows, write_logits
from composer_kd.archive.ranks import on_rank_zero
from composer_kd.archive.waiting import locked
from composer_kd.data.transform import Prepare
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['fill_view', 'precision_of']

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
    samples = Samples.of(dataset)
    with _held_by_rank_zero(archive, view):
        there = recorded_rows(archive, view, samples) if archive.exists else np.zeros(len(samples), bool)
        missing = np.flatnonzero(wanted & ~there)
        if not len(missing):
            return 0
        facts = {
            'augmentation': asdict(dataset.augmentation),
            'classes': int(dataset.num_classes),
            'top_k': _form(archive),
            'precision': precision_of(state),
            'weights': teacher.manifest.weights.hash,
            'source': 'fill',
            **_how_it_began(archive, view),
        }
        mine = missing[dist.get_global_rank() :: dist.get_world_size()]
        if len(mine):
            begun = time.perf_counter()
            logits = _logits(teacher, state, view, mine)
            write_logits(archive, view, samples.take(mine), logits, facts, time.perf_counter() - begun)
        dist.barrier()
        cost = teacher.multiply_adds(dataset.facts.shape)
        on_rank_zero(lambda: merge_logits(archive, view, facts, cost))
    return len(mine)


def _how_it_began(archive: Archive, view: int) -> dict[str, Any]:
    """A table that is only completed goes on saying where its other rows come from."""
    facts = archive.facts('logits', view) if archive.exists and view in archive.views else {}
    return {key: facts[key] for key in ('source', 'weights', 'precision') if key in facts}


def _form(archive: Archive) -> int | None:
    """Whether the archive's other views are whole (``None``) or the top k logits: a new one is like them."""
    views = archive.views if archive.exists else []
    return archive.facts('logits', views[0]).get('top_k') if views else None


def _logits(teacher: RecordedTeacher, state: Any, view: int, rows: NDArray[np.int64]) -> Tensor:
    """float32 logits ``[n, C]`` on the host: the live model on some rows of the training data in one view."""
    dataset = state.train_dataloader.dataset
    prepare = Prepare(dataset.augmentation, *dataset.normalization)
    parts = []
    for first in range(0, len(rows), _CHUNK):
        packed = rows[first : first + _CHUNK] + len(dataset) * view
        batch = prepare(state.device.batch_to_device(dataset.__getitems__(packed.tolist())))
        parts.append(teacher.compute(batch, state).cpu())
    return torch.cat(parts)


def precision_of(state: Any) -> str:
    """What a run's configuration calls the precision of its forward passes: ``fp32``, ``bf16`` or ``fp16``."""
    model = state.model.module if isinstance(state.model, DistributedDataParallel) else state.model
    if getattr(model, 'cpu_autocast', False):
        return 'bf16'
    return {'amp_bf16': 'bf16', 'amp_fp16': 'fp16'}.get(state.precision.value, 'fp32')


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
