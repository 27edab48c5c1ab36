"""An earlier run's adversarial examples, found for the samples of this training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import PIXELS
from composer_kd.archive.archive import Archive
from composer_kd.archive.ranks import on_rank_zero
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import aligned
from composer_kd.errors import UserError

__all__ = ['Recorded', 'check_same', 'read_examples', 'recorded_set']


@dataclass(frozen=True)
class Recorded:
    """What a run recorded of some samples.

    Attributes:
        deltas: int8 ``[k, C, H, W]`` of those that it knows.
        known: Which of the samples those are.
        facts: What its manifest says of the attack.
        xxh3: Of the file, to know it again.
    """

    deltas: Tensor
    known: NDArray[np.bool_]
    facts: dict[str, Any]
    xxh3: str


def recorded_set(archive: Archive) -> int:
    """The number of the examples' table; one line where there is none."""
    numbers = archive.numbers('adversarial')
    if not numbers:
        raise UserError(
            f'{archive.run} recorded no adversarial examples; train it with `adversarial:` and '
            f'`archive: {{adversarial: true}}`'
        )
    return numbers[-1]


def read_examples(archive: Archive, samples: Samples, shape: Sequence[int], owner: str, unseen: str) -> Recorded:
    """Read on rank 0, for all: the run may be recording at this moment, and all ranks must have the same.

    Args:
        archive: Of the earlier run.
        samples: Of this training.
        shape: Of an image.
        owner: How error lines call who asks.
        unseen: What becomes of samples that the archive does not know, for the warning.
    """
    found = on_rank_zero(lambda: _read(archive, samples, shape, owner))
    missing = len(samples) - int(found.known.sum())
    if missing and dist.get_global_rank() == 0:
        warnings.warn(
            f'{owner}: {archive.run} has no adversarial examples of {missing:,} of the {len(samples):,} training '
            f'samples; {unseen}',
            stacklevel=2,
        )
    return found


def _read(archive: Archive, samples: Samples, shape: Sequence[int], owner: str) -> Recorded:
    number = recorded_set(archive)
    table, facts = archive.table('adversarial', number), archive.facts('adversarial', number)
    if facts.get('pixels') != PIXELS:
        raise UserError(
            f'{owner}: the deltas of {archive.run} are on a pixel scale of 0 to {facts.get("pixels", "(not said)")}, '
            f'not of 0 to {PIXELS}; record them anew'
        )
    if unsaid := [name for name in ('epsilon', 'norm') if name not in facts]:
        raise UserError(
            f'{owner}: the archive of {archive.run} does not say the {unsaid[0]} of its adversarial examples; record '
            f'them anew'
        )
    theirs = list(table['delta'].shape[1:])
    if theirs != list(shape):
        raise UserError(
            f'{owner}: the adversarial examples of {archive.run} are of images of {theirs}, and these are of '
            f'{list(shape)}; name a run on such data'
        )
    # By content: in the coordinates of the stored image a delta does not depend on the id, which decides views.
    rows = archive.samples().rows_by_content(samples)
    found = aligned(table, rows)
    known = found['seen'] != 0
    if not known.any():
        raise UserError(
            f'{owner}: {archive.run} recorded adversarial examples of other data: none of this training; name a run '
            f'that was trained on it'
        )
    manifest = archive.manifest()
    file = archive.record().adversarial[number].file
    return Recorded(found['delta'][known], known.numpy(), facts, manifest.files[file].xxh3)


def check_same(before: str | None, now: str, archive: Archive, owner: str) -> None:
    """A training that goes on must replay what it began with."""
    if before is not None and before != now:
        raise UserError(
            f'{owner}: the adversarial examples in {archive.run} are not those that this training began with; put them '
            f'back, or begin anew'
        )
