"""What compares a student's logits with a target's: pure functions, averaged over the batch.

Each takes ``(student, teacher)`` logits of shape ``[B, C]`` first; a further argument called ``labels`` is filled with
the hard labels. A new one is a function here and a row in :data:`LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.registry import Registry

__all__ = ['LOSSES', 'hard', 'kl', 'mse', 'soft_cross_entropy', 'standardize']

LOSSES: Registry[Callable[..., Tensor]] = Registry('losses')


@LOSSES.register('mse', 'squared distance of the logits, averaged over samples and classes')
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the logits, averaged over samples and classes (Ba and Caruana, 2014)."""
    return F.mse_loss(student, teacher)


@LOSSES.register('kl', 'T^2 KL(p_t || p_s) of the softened outputs, averaged over the batch')
def kl(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T^2 KL(p_t || p_s)``, averaged over the batch (`Hinton et al, 2015 <https://arxiv.org/abs/1503.02531>`_).

    The factor ``T^2`` keeps the gradient's size independent of the temperature.

    Args:
        student: The student's logits ``[B, C]``.
        teacher: The target's logits ``[B, C]``.
        temperature: ``T`` in ``p = softmax(z / T)``.
    """
    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p_student, log_p_teacher, reduction='batchmean', log_target=True) * temperature**2


@LOSSES.register('soft_ce', 'T^2 cross-entropy of the student under the softened target, averaged over the batch')
def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T^2 CE(p_t, p_s)``, averaged over the batch: :func:`kl` plus the target's entropy, with its gradient."""
    log_p_student = F.log_softmax(student / temperature, dim=1)
    p_teacher = F.softmax(teacher / temperature, dim=1)
    return -(p_teacher * log_p_student).sum(dim=1).mean() * temperature**2


@LOSSES.register('hard', "cross-entropy against the target's most probable class")
def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the class that the target finds most probable."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


def standardize(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """The z-score of every sample's logits (`Sun et al, 2024 <https://arxiv.org/abs/2403.01427>`_).

    Only the shape of the outputs is compared then, not their scale; applied to both sides before any loss.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (torch.std(logits, dim=1, keepdim=True, correction=0) + eps)
