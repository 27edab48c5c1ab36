"""The live table of a training: one delta a sample, in the coordinates of its stored image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from composer.devices import Device
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import Budget
from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.functional.counter import counter_hash

__all__ = ['DeltaTable']


class DeltaTable:
    """Deltas in slots: samples that the budget keeps have one each, from the first step to the last.

    Deltas lie on the training device. Which slot is whose, and which hold something, is known on the host: a step finds
    out what to do without waiting for the device. A sample has one delta, and a newer one takes its place. Ranks tell
    each other what they put in when an epoch ends, and before a checkpoint: until then nobody else meets the samples.

    Args:
        owner: How error lines call the algorithm.
    """

    def __init__(self, owner: str):
        self._owner = owner
        self._samples = Samples.none()
        self._in_order = self._order = np.zeros(0, np.int64)
        self._slots = torch.zeros(0, dtype=torch.int64)  # Of each row of the data; -1 for none.
        self._rows = np.zeros(0, np.int64)  # Of each slot.
        self._deltas = torch.zeros(0, dtype=torch.int8)
        self._known = torch.zeros(0, dtype=torch.bool)
        self._changed = torch.zeros(0, dtype=torch.bool)
        self._digest: int | None = None
        self._saved: dict[str, Any] | None = None

    def start(self, samples: Samples, shape: Sequence[int], budget: Budget, device: Device) -> None:
        """Begin empty; or go on with what a checkpoint, or a fit before this one, holds of these samples."""
        digest = int(counter_hash(torch.from_numpy(samples.ids), torch.tensor(shape).prod()).sum())
        if self._digest not in (None, digest):
            raise UserError(
                f'{self._owner}: the checkpoint holds adversarial examples of other samples; continue on the data that '
                f'the run began with'
            )
        saved = self._saved if self._saved is not None else self.state_dict() if self._digest is not None else None
        self._samples, self._digest, self._saved = samples, digest, None
        self._order = np.argsort(samples.ids, kind='stable')
        self._in_order = samples.ids[self._order]
        self._rows = budget.kept(samples.ids, shape, self._owner)
        self._slots = torch.full((len(samples),), -1, dtype=torch.int64)
        self._slots[torch.from_numpy(self._rows)] = torch.arange(len(self._rows))
        self._deltas = self._zeros(len(self._rows), shape, device)
        self._known = torch.zeros(len(self._rows), dtype=torch.bool)
        if saved is not None:
            self._fill(self.slots(saved['ids']), saved['deltas'])
        self._changed = torch.zeros_like(self._known)

    def _zeros(self, slots: int, shape: Sequence[int], device: Device) -> Tensor:
        try:
            return device.tensor_to_device(torch.zeros(slots, *shape, dtype=torch.int8))
        except torch.OutOfMemoryError as error:
            needed = slots * int(np.prod(shape)) / 1e6
            raise UserError(
                f'{self._owner}: the device has no memory for {slots:,} examples ({needed:,.0f} MB); set budget to '
                f'less, or lower microbatch_size'
            ) from error

    def fill(self, deltas: Tensor, known: NDArray[np.bool_]) -> None:
        """Take over an earlier run's deltas, ``[n, C, H, W]`` for the rows of the data that are ``known``."""
        self._fill(self._slots[torch.from_numpy(np.flatnonzero(known))], deltas)

    def _fill(self, slots: Tensor, deltas: Tensor) -> None:
        inside = slots >= 0  # The budget may be another one now.
        slots = slots[inside]
        self._deltas[slots.to(self._deltas.device)] = deltas[inside].to(self._deltas.device)
        self._known[slots] = True

    def clear(self) -> None:
        """Forget all deltas. All ranks do so before the same step."""
        self._deltas.zero_()
        self._known.fill_(False)
        self._changed.fill_(False)

    def __len__(self) -> int:
        """How many samples have a delta."""
        return int(self._known.sum())

    def slots(self, ids: Tensor) -> Tensor:
        """The slots of samples, on the host; -1 where the budget keeps none."""
        wanted = ids.cpu().numpy()
        place = np.minimum(np.searchsorted(self._in_order, wanted), len(self._in_order) - 1)
        strange = self._in_order[place] != wanted
        if strange.any():
            raise UserError(
                f'{self._owner}: the batches have a sample with id {wanted[strange][0]}, which the training data set '
                f'does not list among its ids'
            )
        return self._slots[torch.from_numpy(self._order[place])]

    def known(self, slots: Tensor) -> Tensor:
        """Which of these slots hold a delta, on the host."""
        return (slots >= 0) & self._known[slots.clamp(min=0)]

    def take(self, slots: Tensor) -> Tensor:
        """The deltas in these slots, on the device; 0 where there is none."""
        # An empty slot holds zeros: only what lies outside of the budget has to be made so.
        deltas = self._deltas[slots.clamp(min=0).to(self._deltas.device, non_blocking=True)]
        outside = slots < 0
        return deltas.masked_fill_(outside.to(deltas.device).view(-1, 1, 1, 1), 0) if outside.any() else deltas

    def put(self, slots: Tensor, deltas: Tensor) -> None:
        """Put newer deltas in; those without a slot are dropped."""
        kept = slots >= 0
        if not kept.all():
            # Counted on the host, which has the slots: a mask on the device would have to be waited for.
            rows = kept.nonzero().squeeze(1)
            slots, deltas = slots[rows], deltas[rows.to(deltas.device, non_blocking=True)]
        self._deltas[slots.to(self._deltas.device, non_blocking=True)] = deltas
        self._known[slots] = True
        self._changed[slots] = True

    def exchange(self) -> None:
        """Enter what all ranks have put in since the last time; the table is then the same everywhere."""
        if dist.get_world_size() > 1:
            slots = torch.nonzero(self._changed).squeeze(1)
            # In the order of the ranks, on all of them: a sample that two have met gets the same delta everywhere.
            for theirs, deltas in dist.all_gather_object((slots, self.take(slots).cpu())):
                self._fill(theirs, deltas)
        self._changed.fill_(False)

    def entries(self) -> tuple[Samples, Tensor]:
        """The samples that have a delta, and the deltas, on the host."""
        slots = torch.nonzero(self._known).squeeze(1)
        return self._samples.take(self._rows[slots.numpy()]), self.take(slots).cpu()

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        # Composer calls this on every rank, and writes what rank 0 returns.
        self.exchange()
        samples, deltas = self.entries()
        return {'ids': torch.from_numpy(samples.ids), 'deltas': deltas, 'digest': self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved, self._digest = state, state['digest']
