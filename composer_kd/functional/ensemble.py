"""Several models, one answer: averages of their logits or probabilities, and of how many of them are right."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['average_logits', 'average_probabilities', 'right_counts']


def average_logits(logits: Tensor) -> Tensor:
    """The mean over K models: their probabilities' geometric mean, normalised.

    Args:
        logits: ``[K, N, C]``, of any floating type.

    Returns:
        Tensor: Float32 logits ``[N, C]``.
    """
    return logits.float().mean(dim=0)


def average_probabilities(logits: Tensor) -> Tensor:
    """The arithmetic mean of K models' probabilities, as logits: their softmax is that mean.

    Returned are its logarithms, computed without leaving the logarithmic scale, so that the cross-entropy of a class
    that all models think impossible is large and not infinite.

    Args:
        logits: ``[K, N, C]``, of any floating type.

    Returns:
        Tensor: Float32 log-probabilities ``[N, C]``.
    """
    return F.log_softmax(logits.float(), dim=2).logsumexp(dim=0) - math.log(len(logits))


def right_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """Of how many samples 0, 1, ..., K of the models are right.

    Args:
        logits: ``[K, N, C]``.
        labels: ``[N]``, the true classes.

    Returns:
        Tensor: int64 ``[K + 1]``, which sums to ``N``.
    """
    right = (logits.argmax(dim=2) == labels).sum(dim=0)
    return torch.bincount(right, minlength=len(logits) + 1)
