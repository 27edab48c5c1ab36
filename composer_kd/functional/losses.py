"""What compares a student's logits with a target's: pure functions, averaged over the batch.

Each takes ``(student, teacher)`` logits of shape ``[B, C]`` first; a further argument called ``labels`` is filled with
the hard labels, one called ``temperature`` may change while the training goes on. A new one is a function here and a
row in :data:`LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.registry import Registry
from composer_kd.functional.mixing import confidence_weights

__all__ = ['LEAST_SAMPLES', 'LOSSES', 'cwtm', 'dist', 'dkd', 'hard', 'kl', 'mse', 'soft_cross_entropy', 'standardize']

LOSSES: Registry[Callable[..., Tensor]] = Registry('losses')


@LOSSES.register('mse', 'squared distance of the logits, averaged over samples and classes')
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the logits, averaged over samples and classes (Ba and Caruana, 2014)."""
    return F.mse_loss(student, teacher)


@LOSSES.register('kl', 'T^2 KL(p_t || p_s) of the softened outputs, averaged over the batch')
def kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 4.0, average: str = 'samples') -> Tensor:
    """``T^2 KL(p_t || p_s)``, averaged over the batch (`Hinton et al, 2015 <https://arxiv.org/abs/1503.02531>`_).

    The factor ``T^2`` keeps the gradient's size independent of the temperature.

    Args:
        student: The student's logits ``[B, C]``.
        teacher: The target's logits ``[B, C]``.
        temperature: ``T`` in ``p = softmax(z / T)``.
        average: ``'samples'``, the sum over classes averaged over samples, or ``'elements'``, the average over samples
            and classes, C times smaller: what PyTorch's ``kl_div`` gives unless it is told otherwise, and what some
            published weights were found with.
    """
    if average not in ('samples', 'elements'):
        raise UserError(f"loss: kl's average is 'samples' or 'elements', got {average!r}")
    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    reduction = 'batchmean' if average == 'samples' else 'mean'
    return F.kl_div(log_p_student, log_p_teacher, reduction=reduction, log_target=True) * temperature**2


@LOSSES.register('soft_ce', 'T^2 cross-entropy of the student under the softened target, averaged over the batch')
def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float | Tensor = 4.0) -> Tensor:
    """``T^2 CE(p_t, p_s)``, averaged over the batch: :func:`kl` plus the target's entropy, with its gradient."""
    log_p_student = F.log_softmax(student / temperature, dim=1)
    p_teacher = F.softmax(teacher / temperature, dim=1)
    return -(p_teacher * log_p_student).sum(dim=1).mean() * temperature**2


@LOSSES.register('hard', "cross-entropy against the target's most probable class")
def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the class that the target finds most probable."""
    return F.cross_entropy(student, teacher.argmax(dim=1))


@LOSSES.register('dkd', 'kl in two parts with a weight each: is it the label, and which of the other classes')
def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float | Tensor = 8.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    """Decoupled distillation (`Zhao et al, 2022 <https://arxiv.org/abs/2203.08679>`_), averaged over the batch.

    ``T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s))``: ``b`` are the probabilities of the label and of everything
    else, ``q`` those of the other classes among themselves. With ``alpha = 1`` and ``beta = 1 - p_t(label)``, sample
    by sample, it is :func:`kl`; a larger constant keeps what a sure teacher knows of the other classes.

    Args:
        student: The student's logits ``[B, C]``.
        teacher: The target's logits ``[B, C]``.
        labels: The hard labels ``[B]``. A sample whose label is negative (-100 is none) does not count.
        alpha: The weight of the label's part.
        beta: The weight of the other classes' part, one number or one a sample.
        temperature: ``T`` in ``p = softmax(z / T)``.
    """
    labels, labelled = labels.long().clamp_min(0), labels >= 0
    label = F.one_hot(labels, student.shape[1]).bool()
    of_label, others = [], []
    for logits in (student / temperature, teacher / temperature):
        log_p = F.log_softmax(logits, dim=1)
        # The log of all other classes' probability, summed as logarithms: 1 - p would be 0 for a sure teacher.
        log_rest = log_p.masked_fill(label, -torch.inf).logsumexp(dim=1)
        of_label.append(torch.stack([log_p.gather(1, labels[:, None])[:, 0], log_rest], dim=1))
        others.append(F.log_softmax(logits.masked_fill(label, -torch.inf), dim=1).masked_fill(label, 0.0))
    one = _divergence(*of_label)
    other = (others[1].exp() * ~label * (others[1] - others[0])).sum(dim=1)
    losses = torch.where(labelled, alpha * one + beta * other, 0.0)
    return losses.sum() / labelled.sum().clamp_min(1) * temperature**2


def _divergence(log_p_student: Tensor, log_p_teacher: Tensor) -> Tensor:
    """``KL(p_t || p_s)`` of each sample."""
    return (log_p_teacher.exp() * (log_p_teacher - log_p_student)).sum(dim=1)


@LOSSES.register('dist', 'one minus the correlations of the softened outputs, within samples and within classes')
def dist(
    student: Tensor,
    teacher: Tensor,
    beta: float = 2.0,
    gamma: float = 2.0,
    temperature: float | Tensor = 4.0,
) -> Tensor:
    """Relations instead of values (`Huang et al, 2022 <https://arxiv.org/abs/2205.10536>`_).

    ``T^2 (beta (1 - mean_i r(p_s[i], p_t[i])) + gamma (1 - mean_c r(p_s[:, c], p_t[:, c])))`` with Pearson's ``r``:
    between the classes of each sample, and between the samples of each class. Positive affine maps of the
    probabilities change nothing. The second part compares the samples of a batch with each other, so microbatches and
    ranks, which see parts of it, are not one batch.

    Args:
        student: The student's logits ``[B, C]``, of two samples or more.
        teacher: The target's logits ``[B, C]``.
        beta: The weight of the part within samples.
        gamma: The weight of the part within classes.
        temperature: ``T`` in ``p = softmax(z / T)``.
    """
    if len(student) < LEAST_SAMPLES[dist]:
        raise UserError('loss: dist compares the samples of a batch, and this one has a single sample; use larger ones')
    p_student, p_teacher = F.softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    within_samples = 1 - _correlation(p_student, p_teacher, dim=1).mean()
    within_classes = 1 - _correlation(p_student, p_teacher, dim=0).mean()
    return (beta * within_samples + gamma * within_classes) * temperature**2


def _correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Pearson's correlation along ``dim``; 0, without a gradient, where one of the two does not vary."""
    one, other = one - one.mean(dim=dim, keepdim=True), other - other.mean(dim=dim, keepdim=True)
    lengths = [torch.linalg.vector_norm(centred, dim=dim) for centred in (one, other)]
    varies = (lengths[0] > _FLAT) & (lengths[1] > _FLAT)
    return torch.where(varies, (one * other).sum(dim=dim), 0.0) / torch.where(varies, lengths[0] * lengths[1], 1.0)


_FLAT = 1e-7  # What rounding leaves of equal probabilities; those of a net that was just begun vary by 1e-3.


@LOSSES.register('cwtm', "cross-entropy with the label, samples weighted by the teacher's top probability")
def cwtm(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the label, each sample weighted by the teacher's top probability, normalised over the batch.

    "Confidence weighted by teacher max" of `Furlanello et al, 2018 <https://arxiv.org/abs/1805.04770>`_: all that is
    left of the teacher is how sure it was. A sample whose label is negative (-100 is none) does not count.
    """
    labelled = labels >= 0
    losses = torch.where(labelled, F.cross_entropy(student, labels.long().clamp_min(0), reduction='none'), 0.0)
    weights = torch.where(labelled, confidence_weights(teacher), 0.0)
    return (weights * losses).sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


LEAST_SAMPLES: dict[Callable[..., Tensor], int] = {dist: 2}
"""Losses that cannot be computed for fewer samples than this; all others take one."""


def standardize(logits: Tensor, least: float = 0.01) -> Tensor:
    """The z-score of every sample's logits (`Sun et al, 2024 <https://arxiv.org/abs/2403.01427>`_).

    Only the shape of the outputs is compared then, not their scale; applied to both sides before any loss. The
    deviation divides by ``C - 1``, as in the published code.

    Args:
        logits: ``[B, C]``.
        least: Logits that spread less than this are divided by it: the gradient grows as the spread falls, and a net
            whose last layer starts at zero would be thrown away by its first step.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / torch.std(logits, dim=1, keepdim=True, correction=1).clamp_min(least)
