"""Logits on their way into an archive: encoded, kept in parts as they come, merged into the table of their view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.archive import Archive
from composer_kd.archive.parts import read_parts, remove_parts, write_part
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import aligned
from composer_kd.errors import UserError
from composer_kd.functional.top_k import keep_top, to_half

__all__ = ['clipped', 'merge_logits', 'recorded_rows', 'write_logits']


def write_logits(
    archive: Archive,
    view: int,
    samples: Samples,
    logits: Tensor,
    facts: Mapping[str, Any],
    seconds: float = 0.0,
) -> None:
    """Keep the logits of some samples in a part; several processes may do so at once.

    Args:
        archive: Where they will be.
        view: Of the samples.
        samples: Whose they are.
        logits: ``[n, C]``, in full precision.
        facts: Of the table that they belong to. ``top_k`` among them says whether they are kept whole.
        seconds: What they cost, for the table's facts.
    """
    logits = logits.cpu().float()
    if not bool(torch.isfinite(logits).all()):
        raise UserError(f'{archive.run.path}: logits of view {view} are NaN or infinite; they are not recorded')
    half, _ = to_half(logits)
    if facts['top_k'] is None:
        columns = {'logits': half}
    else:
        values, indices, rest = keep_top(half, facts['top_k'])
        columns = {'values': values, 'indices': indices, 'rest': rest}
    # What a row cost goes with it, so that nothing is lost of the account when a process is killed.
    columns['seconds'] = torch.full((len(logits),), seconds / len(logits), dtype=torch.float64)
    write_part(archive, 'logits', view, samples, columns, facts)


def merge_logits(
    archive: Archive, view: int, facts: Mapping[str, Any], multiply_adds: int = 0, counted_as: str = ''
) -> None:
    """Move what the parts of a view say into its table; rows that it has already stay as they are.

    Args:
        archive: Where the parts and the table are.
        view: Whose.
        facts: Those that the parts were written with; they become the table's.
        multiply_adds: The cost of one sample's forward pass, where one was made for the recording.
        counted_as: Begins the names of the costs in the manifest, where another than the table's recorder paid them.
    """
    parts = read_parts(archive, 'logits', view, facts)
    if parts is not None:
        samples, columns = parts
        # Parts come in any order; in that of their ids the samples make the same file every time.
        new = np.flatnonzero(~recorded_rows(archive, view, samples))
        new = new[np.argsort(samples.ids[new], kind='stable')]
        columns = {name: column[torch.from_numpy(new)] for name, column in columns.items()}
        seconds = float(columns.pop('seconds').sum())
        images = len(new) if multiply_adds else 0
        counts = {
            'clipped': clipped(columns),
            f'{counted_as}images': images,
            f'{counted_as}seconds': round(seconds, 3),
            f'{counted_as}multiply_adds': images * multiply_adds,
        }
        if len(new):
            archive.put('logits', view, samples.take(new), columns, facts, counts=counts)
    remove_parts(archive, 'logits', view, facts)


def clipped(columns: Mapping[str, Tensor]) -> int:
    """How many of the stored logits lie at the limits of float16, where larger ones were brought to."""
    values = columns.get('logits', columns.get('values'))
    assert values is not None
    return int((values.abs() == torch.finfo(values.dtype).max).sum())


def recorded_rows(archive: Archive, view: int, samples: Samples) -> NDArray[np.bool_]:
    """Which of the samples the table of a view knows."""
    record = archive.manifest().archive
    if record is None or view not in record.logits:
        return np.zeros(len(samples), bool)
    rows = archive.samples().rows_by_key(samples)
    return aligned(archive.table('logits', view), rows)['seen'].numpy() != 0
