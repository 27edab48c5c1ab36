"""The recorded logits of all teachers of one algorithm, looked up together: one gather a batch for any number."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive import ArchiveTable
from composer_kd.core.errors import UserError
from composer_kd.functional.top_k import spread_rest
from composer_kd.teachers.recorded import RecordedTeacher

__all__ = ['LogitBatch', 'LogitTables']

# Of a device's free memory, and of the host's whole: what tables may take before views are gathered from their files.
_DEVICE_SHARE, _HOST_SHARE = 0.4, 0.25


@dataclass(frozen=True)
class LogitBatch:
    """What the archives know of a batch.

    Attributes:
        keys: The batch's keys, on the device.
        logits: float32 ``[R, B, C]``, one for each recorded teacher; zero where nothing is known.
        seen: bool ``[R, B]`` on the host, where it is counted and no GPU waited for; ``None`` when everything is known.
    """

    keys: Tensor
    logits: Tensor
    seen: Tensor | None

    def part(self, first: int, keys: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits and seen of the microbatch that begins at ``first``, and whether its keys are in another place."""
        span = slice(first, first + len(keys))
        if first + len(keys) > len(self.keys):
            raise UserError(
                'recorded teachers: the microbatches are not the batch that was looked up; an algorithm that changes '
                'the batch needs live teachers'
            )
        moved = (self.keys[span] != keys).any()
        return self.logits[:, span], None if self.seen is None else self.seen[:, span], moved


class LogitTables:
    """Tables in the order of the data set, on the device where they fit, else in pinned memory, else in their files.

    The rows that a batch needs are found on the host, where the batch still is when its step begins; what is gathered
    goes to the device at once, so that no step waits for it. In the device's or the host's memory the tables of all
    teachers are one, ``[samples, teachers, classes]``: a sample's logits lie side by side.

    Args:
        teachers: Recorded teachers; :meth:`RecordedTeacher.choose` has found them fit.
        dataset: The training data, with ``ids``.
        device: The trainer's torch device.
        budget: Bytes that tables may take in memory; ``None`` takes a share of what is free.
    """

    def __init__(
        self, teachers: Sequence[RecordedTeacher], dataset: Any, device: torch.device, budget: int | None = None
    ):
        self.teachers = list(teachers)
        self.dataset = dataset
        self.device = device
        self.classes = int(dataset.num_classes)
        self._order = np.argsort(dataset.ids, kind='stable')
        self._ids = np.asarray(dataset.ids)[self._order]
        self._views: OrderedDict[int, _View] = OrderedDict()
        size = 2 * len(self._ids) * len(self.teachers) * self.classes
        self.place = self._choose_place(size, budget)
        self._keep = max(1, int(self._budget // max(size, 1)))

    def _choose_place(self, size: int, budget: int | None) -> str:
        """``'device'``, ``'pinned'`` or ``'files'``: the first that holds one view of all teachers."""
        memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / dist.get_local_world_size()
        host = int(_HOST_SHARE * memory) if budget is None else budget
        if self.device.type == 'cuda':
            free = budget if budget is not None else int(_DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0])
            if size <= free:
                self._budget = free
                return 'device'
            self._budget = host
            return 'pinned' if size <= host else 'files'
        self._budget = host
        return 'device' if size <= host else 'files'

    def forget(self, view: int) -> None:
        """Read a view's tables again when it is asked for: they have grown."""
        self._views.pop(view, None)

    def dataset_rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The data set's rows of some sample ids."""
        place = np.searchsorted(self._ids, ids).clip(0, len(self._ids) - 1)
        if (self._ids[place] != ids).any():
            raise UserError('recorded teachers: a batch holds a sample id that the training data does not have')
        return self._order[place]

    def look_up(self, keys: Tensor) -> LogitBatch:
        """What is recorded for the keys of a whole batch."""
        host = keys.cpu()
        ids, views = host.numpy().T
        rows = self.dataset_rows(ids)
        asked = np.unique(views)
        if asked[0] < 0:
            raise UserError('recorded teachers: view -1 (the image as stored) is for evaluation and is never recorded')
        if len(asked) == 1:
            logits, seen = self._gather(int(asked[0]), rows)
        else:  # A sampler of the user's own may mix views.
            logits = torch.zeros(len(rows), len(self.teachers), self.classes, device=self.device)
            seen = np.zeros((len(rows), len(self.teachers)), bool)
            for view in asked:
                mine = np.flatnonzero(views == view)
                part, seen[mine] = self._gather(int(view), rows[mine])
                logits[torch.from_numpy(mine).to(self.device)] = part
        known = None if seen.all() else torch.from_numpy(seen.T.copy())
        return LogitBatch(host.to(self.device, non_blocking=True), logits.transpose(0, 1), known)

    def seen(self, teacher: int, view: int) -> NDArray[np.bool_]:
        """Which rows of the data set a teacher's table of a view knows; none if there is no such table."""
        return self._view(view).seen[:, teacher]

    def _gather(self, view: int, rows: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """float32 [B, R, C] on the device, and which of it is known, [B, R] on the host."""
        kept = self._view(view)
        seen = kept.seen[rows]
        if kept.combined is None:
            parts = [kept.sources[number].gather(rows, self.classes) for number in range(len(self.teachers))]
            return torch.stack(parts, 1).to(self.device, non_blocking=True), seen
        index = torch.from_numpy(rows)
        if self.place == 'device':
            gathered = kept.combined.index_select(0, index.to(self.device, non_blocking=True))
        else:
            gathered = kept.combined.index_select(0, index).pin_memory().to(self.device, non_blocking=True)
        return gathered.float(), seen

    def _view(self, view: int) -> _View:
        if view in self._views:
            self._views.move_to_end(view)
            return self._views[view]
        while len(self._views) >= self._keep:  # Before another one is built: both at once might not fit.
            self._views.popitem(last=False)
        sources = [_Source.open(teacher, view, self.dataset) for teacher in self.teachers]
        dense = all(source.table is None or 'logits' in source.table.columns for source in sources)
        combined = None
        if self.place != 'files' and dense:
            combined = torch.zeros(len(self._ids), len(sources), self.classes, dtype=torch.float16)
            for number, source in enumerate(sources):
                source.copy_into(combined[:, number])
            combined = combined.pin_memory() if self.place == 'pinned' else combined.to(self.device)
        self._views[view] = _View(np.stack([source.seen for source in sources], 1), combined, sources)
        return self._views[view]


@dataclass(frozen=True)
class _Source:
    """One teacher's table of one view, in its own order, and where in it the data set's rows are."""

    table: ArchiveTable | None
    rows: NDArray[np.int64]
    seen: NDArray[np.bool_]

    @classmethod
    def open(cls, teacher: RecordedTeacher, view: int, dataset: Any) -> _Source:
        rows = teacher.rows(dataset)
        if not teacher.archive.exists:
            return cls(None, rows, np.zeros(len(rows), bool))
        teacher.check_table(view, dataset)
        if view not in teacher.archive.views:
            return cls(None, rows, np.zeros(len(rows), bool))
        table = teacher.archive.table('logits', view)
        inside = (rows >= 0) & (rows < len(table))
        rows = np.where(inside, rows, 0)
        return cls(table, rows, inside & (table['seen'].numpy()[rows] != 0))

    def gather(self, rows: NDArray[np.int64], classes: int) -> Tensor:
        """float32 [B, C] of some rows of the data set; zero where nothing is known."""
        if self.table is None:
            return torch.zeros(len(rows), classes)
        index = torch.from_numpy(self.rows[rows])
        if 'logits' in self.table.columns:
            logits = self.table['logits'].index_select(0, index).float()
        else:
            values, indices, rest = (self.table[name].index_select(0, index) for name in ('values', 'indices', 'rest'))
            logits = spread_rest(values, indices, rest, classes)
        known = self.seen[rows]
        return logits if known.all() else logits * torch.from_numpy(known)[:, None]

    def copy_into(self, target: Tensor) -> None:
        if self.table is not None:
            known = torch.from_numpy(np.flatnonzero(self.seen))
            target[known] = self.table['logits'].index_select(0, torch.from_numpy(self.rows)[known])


@dataclass(frozen=True)
class _View:
    seen: NDArray[np.bool_]
    combined: Tensor | None
    sources: list[_Source]
