"""Logits in half the bytes, or in a small part of them: float16, and the k largest with one level for all others.

Stored are logits, never probabilities, which would freeze the temperature.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ['keep_top', 'level_of_rest', 'spread_rest', 'to_half']

_HALF_MAX = torch.finfo(torch.float16).max


def to_half(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits as float16, clipped to its range of +-65504, and how many were.

    Args:
        logits: Of any shape, finite: what to do about others is the caller's to say.

    Returns:
        tuple[Tensor, Tensor]: The float16 tensor, and the number of clipped values as an int64 tensor without
        dimensions, so that a GPU need not wait for it.
    """
    clipped = logits.clamp(-_HALF_MAX, _HALF_MAX)
    return clipped.to(torch.float16), (clipped != logits).sum()


def keep_top(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` largest logits of each sample, and one level for all others.

    The level is the logit at which the others, spread evenly, have the probability (at temperature 1) that they had:
    ``logsumexp(others) - log(C - k)``. Of equal logits any may be kept.

    Args:
        logits: ``[B, C]``, finite.
        k: How many are kept, 1 to ``C``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: ``values`` float16 ``[B, k]``, the largest first; ``indices`` ``[B, k]``, their
        classes, int16 where ``C`` is at most 32,768 and int32 beyond; ``rest`` float16 ``[B]``, 0 where ``k`` is ``C``.

    Example:
        >>> values, indices, rest = keep_top(logits, k=20)
        >>> target = spread_rest(values, indices, rest, classes=100)
    """
    classes = logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f'keep_top keeps 1 to {classes} of {classes} logits, not {k}')
    logits = logits.float()
    values, indices = logits.topk(k, dim=1)
    rest = level_of_rest(logits, indices)
    return to_half(values)[0], indices.to(_index_type(classes)), to_half(rest)[0]


def level_of_rest(logits: Tensor, indices: Tensor) -> Tensor:
    """The one level ``[B]`` for all logits but those at ``indices`` ``[B, k]``; 0 where there are no others."""
    others = logits.shape[1] - indices.shape[1]
    if others == 0:
        return logits.new_zeros(len(logits))
    return logits.scatter(1, indices, -math.inf).logsumexp(dim=1) - math.log(others)


def spread_rest(values: Tensor, indices: Tensor, rest: Tensor, classes: int) -> Tensor:
    """Logits float32 ``[B, classes]`` out of what :func:`keep_top` kept: the level in all other places."""
    logits = rest.float().unsqueeze(1).repeat(1, classes)
    return logits.scatter_(1, indices.long(), values.float())


def _index_type(classes: int) -> torch.dtype:
    return torch.int16 if classes <= torch.iinfo(torch.int16).max + 1 else torch.int32
