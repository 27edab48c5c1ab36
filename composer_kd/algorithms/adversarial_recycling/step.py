"""One step of a training with adversarial examples: who is shown one, what was made of it, what it brought."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from composer.devices import Device
from composer.utils import dist
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.counter import uniform
from composer_kd.models.classifier import FirstPass

__all__ = ['AdversarialBatch', 'AttackStep', 'AttackSums', 'StepPlan']

# Goes into the hash that chooses the share of a batch, beside the seed and the step.
_SHARE_VERSION = 1


@dataclass(frozen=True)
class StepPlan:
    """What is to be done with the samples of a rank's batch; all of it on the host.

    Attributes:
        slots: int64 ``[n]``: where the table has them; -1 for nowhere.
        attacked: bool ``[n]``: shown an example that is made now.
        replayed: bool ``[n]``: shown the one that is kept.
    """

    slots: Tensor
    attacked: Tensor
    replayed: Tensor

    @classmethod
    def of(
        cls, ids: Tensor, slots: Tensor, known: Tensor, share: float, attacks: bool, seed: int, step: int
    ) -> StepPlan:
        """Choose by a hash of (seed, step, id): the same samples on any number of ranks."""
        chosen = torch.ones(len(ids), dtype=torch.bool)
        if share < 1:
            chosen = uniform(_SHARE_VERSION, seed, step, ids.cpu()) < share
        nobody = torch.zeros_like(chosen)
        return cls(slots, chosen if attacks else nobody, nobody if attacks else chosen & known)

    def part(self, first: int, samples: int) -> StepPlan:
        rows = slice(first, first + samples)
        return StepPlan(self.slots[rows], self.attacked[rows], self.replayed[rows])


@dataclass(frozen=True)
class AdversarialBatch:
    """What became of a microbatch.

    Attributes:
        images: As the student is shown them.
        shown: int64: which of them are adversarial; on the device.
        slots: Of those that were attacked, on the host.
        deltas: int8, likewise, in the coordinates of the stored images, on the device.
        attacked: How many.
        replayed: How many.
    """

    images: Tensor
    shown: Tensor
    slots: Tensor
    deltas: Tensor
    attacked: int
    replayed: int


class AttackStep:
    """The microbatches of a step by their place in it.

    SAM runs a step's passes twice, and a retry after running out of memory does too: what was made in the first pass is
    shown again in the second, whose weights are not those of the step, and is kept once.
    """

    def __init__(self, plan: StepPlan):
        self.plan = plan
        self._made: dict[int, AdversarialBatch] = {}
        self._next = 0

    def start_pass(self) -> None:
        self._next = 0

    def next(self, samples: int) -> tuple[int, StepPlan, AdversarialBatch | None]:
        """Where the next microbatch begins, what is to be done with it, and what was made of it before."""
        first, self._next = self._next, self._next + samples
        made = self._made.get(first)
        if made is not None and len(made.images) != samples:
            made = None
        return first, self.plan.part(first, samples), made

    def keep(self, first: int, made: AdversarialBatch) -> None:
        """Enter a microbatch in the place of what overlaps with it: a retry may cut the batch into others."""
        end = first + len(made.images)
        apart = {at: one for at, one in self._made.items() if at + len(one.images) <= first or at >= end}
        self._made = {**apart, first: made}

    def made(self) -> list[AdversarialBatch]:
        return list(self._made.values())


class AttackSums:
    """What the student says to the adversarial examples of a step, in the pass that trains."""

    def __init__(self) -> None:
        self._passes = FirstPass[tuple[Tensor, int]]()

    def start_pass(self) -> None:
        self._passes.start()

    def end_pass(self) -> None:
        self._passes.end()

    def add(self, logits: Tensor, labels: Tensor, shown: Tensor) -> None:
        """Enter a microbatch: its float32 logits, its labels, and which of its images are adversarial."""
        logits, labels = logits.detach().index_select(0, shown), labels.index_select(0, shown)
        losses = F.cross_entropy(logits, labels, reduction='sum').double()
        wrong = (logits.argmax(dim=1) != labels).sum().double()
        self._passes.add((torch.stack([losses, wrong]), len(shown)))

    def metrics(self, made: list[AdversarialBatch], samples: int, device: Device) -> dict[str, float]:
        """Over all ranks, which come here together: loss and success, and the shares of the batch."""
        parts = self._passes.take()
        known = [sum(n for _, n in parts), sum(m.attacked for m in made), sum(m.replayed for m in made), samples]
        counted = device.tensor_to_device(torch.tensor([0.0, 0.0, *known], dtype=torch.float64))
        for sums, _ in parts:
            counted[:2] += sums
        dist.all_reduce(counted, reduce_operation='SUM')
        loss, wrong, shown, attacked, replayed, everyone = counted.tolist()
        metrics = {'adversarial/attacked': attacked / everyone, 'adversarial/replayed': replayed / everyone}
        if shown:
            metrics |= {'adversarial/loss': loss / shown, 'adversarial/success': wrong / shown}
        return metrics
