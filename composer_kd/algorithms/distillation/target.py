"""What the teachers said of a microbatch, and the loss that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.algorithms.distillation.loss import DistillLoss
from composer_kd.algorithms.distillation.sums import Distilled
from composer_kd.core.errors import UserError

__all__ = ['DistillationTarget']


@dataclass
class DistillationTarget:
    """Weigh the parts of a microbatch's loss.

    Args:
        labels: The hard labels ``[B]``, where the batch has them.
        strength: The weight of the distillation term, its schedule inside; 0 where it is off.
        label_weight: The weight of the label loss.
        numbers: The loss's own numbers at this point of the training.
        logits: The teachers' mix ``[B, C]``; ``None`` where they were not queried.
        mask: Which samples have a target, ``[B]``; ``None`` for all.
    """

    labels: Tensor | None
    strength: float
    label_weight: float
    numbers: Mapping[str, Any]
    logits: Tensor | None = None
    mask: Tensor | None = None
    single: bool = False
    """Whether the student has a single output, shown as the logits of two classes."""
    of_labelled: bool = False
    """Whether the mix or the loss needs labels, so that the term is an average over those samples that have one."""

    @property
    def changes_nothing(self) -> bool:
        return self.logits is None and self.label_weight == 1.0

    def label_part(self, label: Tensor, student: Tensor, owner: str) -> Tensor:
        """Weigh the label loss; a sample without a target has its label with weight 1.

        Args:
            label: The model's own loss, averaged.
            student: The student's logits ``[B, C]``.
            owner: Names the algorithm in an error line.
        """
        # Not 0 times the label loss: where labels are not used they may be none (-100), and their loss no number.
        if self.labels is not None:
            # The cross-entropy of a batch without a single label is 0 / 0: there is nothing to learn of labels.
            none = label.isnan() & ~(self.labels >= 0).any()
            label = torch.where(none, 0.0, label)
        label = self.label_weight * label if self.label_weight else 0.0 * student.sum()
        if self.logits is None or self.mask is None or self.label_weight == 1.0:
            return label
        if self.labels is None:
            if bool(self.mask.all()):
                return label
            raise UserError(
                f"{owner}: samples that no teacher knows are taught by their labels (unseen='label'), "
                f'and this batch has no hard labels; use label_weight=1'
            )
        # Labels of -100 are none, here as in PyTorch: they add nothing, and do not count.
        labelled = self.labels >= 0
        losses = F.cross_entropy(student, self.labels.long().clamp_min(0), reduction='none')
        alone = torch.where(labelled & ~self.mask, losses, 0.0).sum() / labelled.sum().clamp_min(1)
        return label + (1.0 - self.label_weight) * alone

    def distill(self, student: Tensor, loss: DistillLoss) -> Distilled:
        """Compute the weighted term: an average over all samples, to which those without a target add nothing."""
        target, labels, compared = self.logits, self.labels, None
        assert target is not None
        share: float | Tensor = 1.0
        if self.mask is not None:
            rows = self.mask.nonzero()[:, 0]  # The one wait for the device: how many there are.
            if not len(rows):
                return Distilled(0.0 * student.sum(), student.new_zeros(()), 0)
            share = len(rows) / len(student)
            if labels is not None and self.of_labelled:
                labelled = (labels >= 0).to(student.dtype)
                share = labelled[rows].sum() / labelled.sum().clamp_min(1)
            labels = None if labels is None else labels[rows]
            student, target = student[rows], target[rows]
            compared = len(student)
        term = self.strength * share * loss(student, target, labels, self.numbers, self.single)
        agreement = (student.argmax(dim=1) == target.argmax(dim=1)).sum()
        if loss.learned is None:
            return Distilled(term, agreement, compared)
        temperature = torch.full((), self.numbers['temperature'], device=student.device, requires_grad=True)
        numbers = {**self.numbers, 'temperature': temperature}
        again = share * loss(student.detach(), target, labels, numbers, self.single)
        (slope,) = torch.autograd.grad(again, temperature)
        return Distilled(term, agreement, compared, slope)
