"""Counts of steps that nobody has looked at yet: what the device counts stays there, what the host knows stays here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from composer.utils import dist
from torch import Tensor

__all__ = ['StepCounts']


class StepCounts:
    """A row of numbers for each step, read back and summed over ranks for many steps at once.

    Whoever reads a number from a GPU in every step makes the host wait for it in every step, and a GPU that has been
    waited for then waits for the host.
    """

    def __init__(self) -> None:
        self._counted: list[Tensor] = []
        self._known: list[list[float]] = []

    def __len__(self) -> int:
        return len(self._known)

    def add(self, counted: Tensor, known: Sequence[float]) -> None:
        """Enter a step of this rank.

        Args:
            counted: float64 ``[n]``, on the device.
            known: Numbers that the host has.
        """
        self._counted.append(counted)
        self._known.append([float(number) for number in known])

    def take(self) -> list[list[float]]:
        """The rows since the last time, ``counted`` before ``known``, over all ranks, which take them together."""
        if not self._known:
            return []
        counted = torch.stack(self._counted)
        rows = torch.cat([counted, torch.tensor(self._known, dtype=torch.float64).to(counted.device)], dim=1)
        self._counted, self._known = [], []
        dist.all_reduce(rows, reduce_operation='SUM')
        return rows.tolist()
