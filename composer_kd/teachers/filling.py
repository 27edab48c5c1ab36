"""Computing what an archive lacks of a view, once, and keeping it: the second run of a sweep finds it there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.archive import Archive
from composer_kd.teachers.harvest import Harvest, Inference, facts_of_harvest
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['fill_view']


def fill_view(teacher: RecordedTeacher, state: Any, view: int, wanted: NDArray[np.bool_]) -> int:
    """Record what a teacher's archive lacks of a view; all ranks call it together.

    It is a harvest of one view, in the precision that the run was trained in, and shares its parts and locks: a kill
    costs a chunk, and another process that wants the same view waits and finds it.

    Args:
        teacher: One with ``fill``; its live model computes.
        state: The trainer's.
        view: The view.
        wanted: Which rows of the training data the epoch asks for.

    Returns:
        Images that the model computed on this rank.
    """
    archive, dataset = teacher.archive, state.train_dataloader.dataset
    facts = {**facts_of_harvest(teacher.manifest, dataset, _form(archive)), 'source': 'fill'}
    live = teacher.load_live()
    own = Inference.like(archive.run.read_config(), state.device, int(dataset.num_classes))
    try:
        images, _ = Harvest(archive, dataset, facts, live, own).view(view, wanted)
    finally:
        # Between fillings it answers in the training's precision, as every live teacher.
        live.place(state)
        live.read_normalization(dataset, state.device)
    return images


def _form(archive: Archive) -> int | None:
    """Whether the archive's other views are whole (``None``) or the top k logits: a new one is like them."""
    views = archive.views if archive.exists else []
    return archive.facts('logits', views[0]).get('top_k') if views else None
