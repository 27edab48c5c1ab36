"""How difficult a sample was for an earlier run, out of the losses that it recorded."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from composer_kd.archive import Archive, aligned
from composer_kd.archive.samples import Samples
from composer_kd.archive.table import Table
from composer_kd.errors import UserError

__all__ = ['check_statistic', 'difficulties', 'recorded_epochs']


def check_statistic(statistic: str) -> None:
    """Refuse what :func:`difficulties` cannot compute."""
    if statistic not in ('last', 'mean', 'forgetting') and not re.fullmatch(r'epoch \d+', str(statistic)):
        raise UserError(f"statistic: {statistic!r} is not one; write 'last', 'mean', 'epoch 5' or 'forgetting'")


def recorded_epochs(archive: Archive) -> list[int]:
    """The epochs whose losses an archive holds; one line with the remedy if there are none."""
    epochs = archive.epochs if archive.exists else []
    if not epochs:
        raise UserError(
            f'{archive.run.path} has recorded no losses; train that run with `archive: {{losses: true}}`, or with the '
            f'callback RecordLosses'
        )
    return epochs


def difficulties(archive: Archive, samples: Samples, statistic: str) -> Tensor:
    """The difficulty of each sample, float64, NaN for those that the archive never saw.

    ================  ===============================================================================================
    ``'last'``        the loss in the last epoch that saw the sample
    ``'mean'``        the mean of its losses, over the epochs that saw it
    ``'epoch 5'``     its loss in that epoch, counted from 0
    ``'forgetting'``  how often it went from right to wrong between one epoch that saw it and the next that did
                      (Toneva et al, 2019). A sample that was never right is harder than all that were: it counts as
                      the number of recorded epochs, which no sample reaches by forgetting
    ================  ===============================================================================================

    Samples are found by content and label: what their ids are today does not matter.

    Args:
        archive: Of the earlier run.
        samples: The training data now.
        statistic: As above.
    """
    epochs = recorded_epochs(archive)
    rows = archive.samples().rows_by_content(samples)
    if statistic.startswith('epoch '):
        epochs = [int(statistic.removeprefix('epoch '))]
    tables = (aligned(archive.table('loss', epoch), rows) for epoch in epochs)
    nothing = torch.full((len(samples),), torch.nan, dtype=torch.float64)
    if statistic == 'forgetting':
        return _forgetting(list(tables), nothing)
    total, count, last = torch.zeros_like(nothing), torch.zeros_like(nothing), nothing
    for table in tables:
        seen = table['seen'].bool()
        loss = table['loss'].double()
        total, count, last = total + torch.where(seen, loss, 0.0), count + seen, torch.where(seen, loss, last)
    return total / count if statistic == 'mean' else last  # 0 / 0 is NaN: never seen.


def _forgetting(tables: list[Table], nothing: Tensor) -> Tensor:
    events = torch.zeros_like(nothing)
    was_right = torch.zeros(len(nothing), dtype=torch.bool)
    ever_right, ever_seen = was_right.clone(), was_right.clone()
    for table in tables:
        seen, right = table['seen'].bool(), table['correct'].bool()
        events += seen & was_right & ~right
        was_right = torch.where(seen, right, was_right)
        ever_right |= seen & right
        ever_seen |= seen
    events = torch.where(ever_right, events, float(len(tables)))
    return torch.where(ever_seen, events, nothing)
