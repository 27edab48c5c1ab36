"""Recorded logits of a training's batches: looked up when a step begins, handed out by microbatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress
from composer_kd.data.sampler import TrainSampler
from composer_kd.models.batch import keys_of
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.record import fill_view
from composer_kd.teachers.recorded import RecordedTeacher
from composer_kd.teachers.recordings import LogitBatch, LogitTables

__all__ = ['RecordedLogits']


class RecordedLogits:
    """The recorded ones among some teachers.

    Args:
        teachers: Live and recorded ones; a number below is a place among them.
        owner: Names the algorithm in an error line.
    """

    def __init__(self, teachers: Sequence[BaseTeacher], owner: str):
        self._all = teachers
        self._owner = owner
        self.teachers: dict[int, RecordedTeacher] = {}
        """Those that look up in this training, by number."""
        self._tables: LogitTables | None = None
        self._batch: LogitBatch | None = None
        self._filled: set[tuple[int, int | None]] = set()
        self._begun_with: dict[str, str] = {}
        self._misaligned: Tensor | None = None

    # -- before training ------------------------------------------------------------------------------------------

    def start(self, state: State, strength: Callable[[Progress], float]) -> None:
        """Decide, now that the data is known, which teachers look up."""
        recorded = {n: teacher for n, teacher in enumerate(self._all) if isinstance(teacher, RecordedTeacher)}
        if not recorded:
            return
        views = _views_wanted(state, strength)
        for number, teacher in recorded.items():
            begun_with = self._begun_with.get(str(number))
            # Rank 0 decides: another process may be recording into that archive at this moment.
            chosen = on_rank_zero(lambda t=teacher, b=begun_with: t.choose(state, views, b))
            teacher.settle(state, views, looks_up=bool(chosen))
            self._begun_with[str(number)] = chosen
        self.teachers = {number: teacher for number, teacher in recorded.items() if teacher.looks_up}
        self._filled.clear()
        if self.teachers:
            dataset = state.train_dataloader.dataset  # type: ignore[union-attr]
            device = next(state.model.parameters()).device
            self._tables = LogitTables(list(self.teachers.values()), dataset, device)

    # -- a step ---------------------------------------------------------------------------------------------------

    def look_up(self, state: State) -> Mapping[int, int]:
        """Look up a whole batch; first, let teachers with ``fill`` record what they lack of its views.

        Returns:
            Forward passes that filling took, by number of the teacher.
        """
        keys = keys_of(state.batch)
        if keys is None:
            raise UserError(
                f'{self._owner}: recorded teachers look up by key, and this batch has none; batches are (x, y, key), '
                f'or use live teachers'
            )
        assert self._tables is not None
        computed: dict[int, int] = {}
        if any(teacher.fill for teacher in self.teachers.values()):
            computed = self._fill(keys, state)
        self._batch = self._tables.look_up(keys)
        self._misaligned = None
        return computed

    def _fill(self, keys: Tensor, state: State) -> dict[int, int]:
        """Record what is missing of the step's views. Every rank comes here in every step, and for the same views."""
        tables, sampler = self._tables, _sampler(state)
        assert tables is not None
        epoch = int(state.timestamp.epoch)
        selection = None if sampler is None else sampler.selection
        views = keys[:, 1].unique().tolist() if sampler is None else [sampler.view(epoch)]
        if sampler is None and dist.get_world_size() > 1:  # A sampler of the user's own may give ranks other views.
            views = sorted({view for of_rank in dist.all_gather_object(views) for view in of_rank})
        computed = dict.fromkeys(self.teachers, 0)
        for view in views:
            # A curriculum asks for other samples of the same view in another epoch.
            wanted_now = (view, None if selection is None else epoch)
            if wanted_now in self._filled:
                continue
            wanted = np.ones(len(tables.dataset), bool) if selection is None else selection(epoch)
            for number, teacher in self.teachers.items():
                if teacher.fill:
                    computed[number] += fill_view(teacher, state, view, wanted)
            tables.forget(view)
            self._filled.add(wanted_now)
        return computed

    def part(self, first: int, keys: Tensor) -> tuple[Tensor, Tensor | None]:
        """Recorded logits of a microbatch.

        Args:
            first: Where it begins in the batch.
            keys: Its keys.

        Returns:
            Logits ``[R, B, C]`` of :attr:`teachers` in their order, and which are missing, ``[R, B]`` on the host;
            ``None`` where none is.
        """
        assert self._batch is not None
        logits, seen, misaligned = self._batch.part(first, keys)
        self._misaligned = misaligned if self._misaligned is None else self._misaligned | misaligned
        return logits, None if seen is None else ~seen

    def check_alignment(self) -> None:
        """Check, once the step has ended, that the logits were those of the right samples."""
        if self._misaligned is not None and bool(self._misaligned):
            raise UserError(
                f'{self._owner}: the microbatches came in another order than the batch, so recorded outputs would be '
                f'those of other samples; use live teachers with this way of splitting batches'
            )

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, str]:
        """Which teachers looked up, and outputs of which weights: a training that is continued stays with it."""
        return dict(self._begun_with)

    def load_state_dict(self, state: dict[str, str]) -> None:
        self._begun_with = dict(state)


def _sampler(state: State) -> TrainSampler | None:
    sampler = getattr(state.train_dataloader, 'sampler', None)
    return sampler if isinstance(sampler, TrainSampler) else None


def _views_wanted(state: State, strength: Callable[[Progress], float]) -> list[int] | None:
    """The views of the epochs in which the schedule is on; ``None`` if that cannot be told beforehand."""
    sampler, progress = _sampler(state), Progress.of(state)
    # Beside a curriculum epochs have other lengths, and how many there are is not known.
    if sampler is None or progress.epochs is None or sampler.selection is not None:
        views = getattr(getattr(state.train_dataloader, 'dataset', None), 'views', None)
        return None if views is None else list(range(views))
    length = progress.epoch_length or 1
    views = set()
    for epoch in range(int(np.ceil(progress.epochs))):
        inside = (Progress(epoch, epoch * length + batch, batch, length, progress.epochs) for batch in range(length))
        if any(strength(one) for one in inside):
            views.add(sampler.view(epoch))
    return sorted(views)
