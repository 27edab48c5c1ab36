"""The worst group: where a mean accuracy hides that some are served badly."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['worst_group']


def worst_group(right: Tensor, groups: Tensor) -> tuple[int, float]:
    """The group with the lowest accuracy among those that have samples, and that accuracy; the first of equals.

    Args:
        right: bool [N].
        groups: int64 [N], from 0 on.
    """
    sizes = torch.bincount(groups)
    hits = torch.bincount(groups, weights=right.double(), minlength=len(sizes))
    accuracies = torch.where(sizes > 0, hits / sizes, torch.inf)
    worst = int(accuracies.argmin())
    return worst, float(accuracies[worst])
