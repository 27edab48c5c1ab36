"""Many teachers, one target: linear combinations of logits, and the weights that they are combined with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from composer_kd.functional.counter import uniform

__all__ = ['dirichlet_weights', 'mix_outputs']

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
