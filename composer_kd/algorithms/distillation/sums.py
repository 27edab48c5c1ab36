"""What a step adds up for its metrics: over microbatches and ranks, and once, whatever runs twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from composer.devices import Device
from composer.utils import dist
from torch import Tensor

from composer_kd.teachers.checks import OutputChecks

__all__ = ['Distilled', 'StepSums']


@dataclass(frozen=True)
class Distilled:
    """What a distillation said of a microbatch.

    Attributes:
        term: As weighted, averaged over all samples of the microbatch.
        agreement: On how many of the samples that were compared student and target prefer the same class.
        compared: How many were, the others having their label alone; ``None`` where all have a target.
        slope: The unweighted loss's derivative by its temperature, averaged likewise; where the temperature is learned.
    """

    term: Tensor
    agreement: Tensor
    compared: int | None = None
    slope: Tensor | None = None


class StepSums:
    """Sums of one step, kept on the device and read back once.

    SAM runs the forward and backward passes of a step twice, and a retry after running out of memory does too. So a
    pass begins from nothing, the first one that comes to its end is the step's, and it is read at the step's end.
    """

    def __init__(self) -> None:
        self.slope = 0.0
        """Of the step that was reduced last, over all ranks."""
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

    def add(self, samples: int, label: Tensor, distilled: Distilled | None = None) -> None:
        """Add a microbatch: its label loss (the average, as weighted), and what the distillation said of it."""
        step = self._pass
        step.samples += samples
        step.label.append(label.detach().double() * samples)
        if distilled is not None:
            step.distilled += samples
            step.distill.append(distilled.term.detach().double() * samples)
            step.agreement.append(distilled.agreement.double())
            step.compared += samples if distilled.compared is None else distilled.compared
            step.partly = step.partly or distilled.compared is not None
            if distilled.slope is not None:
                step.slope.append(distilled.slope.double() * samples)

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
                zero + step.distilled,
                sum(step.label, zero),
                sum(step.distill, zero),
                sum(step.agreement, zero),
                zero + step.compared,
                zero + step.partly,
                sum(step.slope, zero),
            ]
        )
        everything = torch.cat([sums, *(step.checks.get(number, empty) for number in range(teachers))])
        dist.all_reduce(everything, reduce_operation='SUM')
        samples, distilled, label, distill, agreement, compared, partly, slope, *flat = everything.tolist()
        metrics = {'loss/train/label': label / max(samples, 1.0)}
        self.slope = slope / max(distilled, 1.0)
        if distilled:
            metrics['loss/train/distill'] = distill / distilled
        if partly:
            metrics['distill/label_only'] = 1 - compared / distilled
        if compared:
            metrics['distill/agreement'] = agreement / compared
        width = len(OutputChecks.COLUMNS)
        return metrics, [flat[width * number : width * (number + 1)] for number in range(teachers)]


class _Pass:
    def __init__(self) -> None:
        self.samples = 0
        self.distilled = 0
        self.compared = 0
        self.partly = False
        self.label: list[Tensor] = []
        self.distill: list[Tensor] = []
        self.agreement: list[Tensor] = []
        self.slope: list[Tensor] = []
        self.checks: dict[int, Tensor] = {}
