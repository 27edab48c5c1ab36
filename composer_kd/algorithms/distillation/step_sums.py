"""What a step adds up for its metrics: over microbatches and ranks, and once, whatever runs twice."""

from __future__ import annotations

import torch
from composer.devices import Device
from composer.utils import dist
from torch import Tensor

from composer_kd.teachers.checks import OutputChecks

__all__ = ['StepSums']


class StepSums:
    """Sums of one step, kept on the device and read back once.

    SAM runs the forward and backward passes of a step twice, and a retry after running out of memory does too. So a
    pass begins from nothing, the first one that comes to its end is the step's, and it is read at the step's end.
    """

    def __init__(self) -> None:
        self.start_step()

    def start_step(self) -> None:
        self._taken: _Pass | None = None
        self.start_pass()

    def start_pass(self) -> None:
        self._pass = _Pass()

    def end_pass(self) -> None:
        if self._taken is None:
            self._taken = self._pass

    @property
    def samples(self) -> int:
        """Samples of the pass under way whose loss is done, on this rank."""
        return self._pass.samples

    def add(self, samples: int, label: Tensor, distill: Tensor | None, agreement: Tensor | None) -> None:
        """Add a microbatch: its losses (averages, as weighted) and on how many samples student and target agree."""
        step = self._pass
        step.samples += samples
        step.label.append(label.detach().double() * samples)
        if distill is not None and agreement is not None:
            step.distill.append(distill.detach().double() * samples)
            step.agreement.append(agreement.double())
            step.taught += samples

    def add_check(self, teacher: int, row: Tensor) -> None:
        rows = self._pass.checks
        rows[teacher] = rows[teacher] + row if teacher in rows else row

    def reduce(self, teachers: int, device: Device) -> tuple[dict[str, float], list[list[float]]]:
        """The step's metrics, and a row of :attr:`OutputChecks.COLUMNS` a teacher, over all ranks."""
        step = self._taken or self._pass
        zero = device.tensor_to_device(torch.zeros((), dtype=torch.float64))
        empty = device.tensor_to_device(torch.zeros(len(OutputChecks.COLUMNS), dtype=torch.float64))
        sums = torch.stack(
            [
                zero + step.samples,
                zero + step.taught,
                sum(step.label, zero),
                sum(step.distill, zero),
                sum(step.agreement, zero),
            ]
        )
        everything = torch.cat([sums, *(step.checks.get(number, empty) for number in range(teachers))])
        dist.all_reduce(everything, reduce_operation='SUM')
        samples, taught, label, distill, agreement, *flat = everything.tolist()
        metrics = {'loss/train/label': label / max(samples, 1.0)}
        if taught:
            metrics['loss/train/distill'] = distill / taught
            metrics['distill/agreement'] = agreement / taught
        width = len(OutputChecks.COLUMNS)
        return metrics, [flat[width * number : width * (number + 1)] for number in range(teachers)]


class _Pass:
    def __init__(self) -> None:
        self.samples = 0
        self.taught = 0
        self.label: list[Tensor] = []
        self.distill: list[Tensor] = []
        self.agreement: list[Tensor] = []
        self.checks: dict[int, Tensor] = {}
