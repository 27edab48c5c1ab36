"""Many teachers, one target: linear combinations of logits, and the weights that they are combined with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from composer_kd.functional.counter import uniform

__all__ = ['confidence_weights', 'dirichlet_weights', 'mix_outputs', 'oracle_mix', 'permute_dark_knowledge']

# Every round accepts at least 95 % of the draws, so 12 rounds leave out fewer than one in 10^15.
_ROUNDS = 12


def mix_outputs(outputs: Tensor, weights: Tensor) -> Tensor:
    """The linear combination ``sum_k w_k t_k`` of the outputs of K teachers.

    Args:
        outputs: Logits ``[K, B, C]``.
        weights: ``[K]``, the same for all samples, or ``[K, B]``, one column a sample.

    Returns:
        The target's logits ``[B, C]``.
    """
    weights = weights.to(outputs.dtype)
    if weights.dim() == 1:
        return torch.einsum('k,kbc->bc', weights, outputs)
    return torch.einsum('kb,kbc->bc', weights, outputs)


def oracle_mix(outputs: Tensor, labels: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average, sample by sample, the teachers that are right (`Kang et al, 2020 <https://arxiv.org/abs/1911.13019>`_).

    Args:
        outputs: Logits ``[K, B, C]``.
        labels: The hard labels ``[B]``.
        known: Which outputs are known, ``[K, B]``; the others are no teacher's. ``None``: all.

    Returns:
        The target's logits ``[B, C]``, zeros where no teacher is right, and whether one is, ``[B]``.
    """
    right = outputs.argmax(dim=2) == labels
    if known is not None:
        right = right & known
    count = right.sum(dim=0)
    target = (outputs * right[:, :, None]).sum(dim=0) / count.clamp_min(1)[:, None]
    return target, count > 0


def confidence_weights(outputs: Tensor) -> Tensor:
    """Top probabilities, normalised to sum to 1 over the first dimension.

    Args:
        outputs: Logits of K teachers ``[K, B, C]``, for one weight a teacher in each sample, or of one ``[B, C]``, for
            one weight a sample.

    Returns:
        ``[K, B]`` or ``[B]``.
    """
    top = torch.softmax(outputs, dim=-1).amax(dim=-1)
    return top / top.sum(dim=0, keepdim=True)


def permute_dark_knowledge(outputs: Tensor, ids: Tensor | None = None, seed: int = 0, step: int = 0) -> Tensor:
    """Shuffle each sample's values among the classes, all but the highest one, which stays where it is.

    What a target says of the other classes is gone then; how it is spread over them remains (`Furlanello et al, 2018
    <https://arxiv.org/abs/1805.04770>`_). A permutation is a pure function of (seed, step, id).

    Args:
        outputs: Logits or probabilities ``[B, C]``.
        ids: Sample ids ``[B]``, int64; the place in the batch by default.
        seed: The run's seed.
        step: The number of the batch.
    """
    samples, classes = outputs.shape
    device = outputs.device
    ids = torch.arange(samples, device=device) if ids is None else ids
    top = outputs.argmax(dim=1, keepdim=True)
    drawn = uniform(seed, step, ids[:, None], torch.arange(classes, device=device))
    # Sorted by what was drawn, and by class: the highest value comes first in both, and so stays.
    source = drawn.scatter(1, top, -1.0).argsort(dim=1)
    place = torch.arange(classes, device=device).expand(samples, classes).scatter(1, top, -1).argsort(dim=1)
    return torch.empty_like(outputs).scatter(1, place, outputs.gather(1, source))


def dirichlet_weights(teachers: int, alpha: float, seed: int, step: int, ids: Tensor) -> Tensor:
    """Mix weights ``[teachers, len(ids)]`` drawn from a symmetric Dirichlet distribution, one column for each id.

    A column is a pure function of (seed, step, id): drawn from a counter, not from a generator with a state, so that
    ranks, microbatches and resumed runs draw the same.

    Args:
        teachers: The number of weights in a column; they are positive and sum to 1.
        alpha: The concentration; 1 is uniform over all mixes, small values prefer one teacher, large ones the average.
        seed: The run's seed.
        step: The number of the batch.
        ids: Sample ids, int64; for one weight vector a batch, one arbitrary id.
    """
    # Independent gamma draws, normalised, are Dirichlet. Gamma by Marsaglia and Tsang (2000), which wants a shape of at
    # least 1; for a smaller one, draw with alpha + 1 and multiply by u^(1/alpha). Logarithms keep tiny alphas finite.
    shape = alpha + 1 if alpha < 1 else alpha
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    # All rounds at once, on tensors [rounds, teachers, ids]: round by round is ten times slower for few ids.
    component = torch.arange(teachers, dtype=torch.int64, device=ids.device)[:, None]
    attempt = torch.arange(_ROUNDS, dtype=torch.int64, device=ids.device)[:, None, None]
    u1, u2, u3 = (uniform(seed, step, ids, component, attempt, part) for part in range(3))
    normal = torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)
    v = (1 + c * normal) ** 3
    log_v = torch.log(v.clamp_min(1e-300))
    accepted = (v > 0) & (torch.log(u3) < 0.5 * normal**2 + d - d * v + d * log_v)
    first = accepted.to(torch.uint8).argmax(dim=0, keepdim=True)
    # What no round accepted takes the distribution's mode.
    log_gamma = math.log(d) + torch.where(accepted.any(dim=0), log_v.gather(0, first)[0], 0.0)
    if alpha < 1:
        log_gamma = log_gamma + torch.log(uniform(seed, step, ids, component, _ROUNDS, 0)) / alpha
    return torch.softmax(log_gamma, dim=0)
