"""How far a classifier's confidence is from its accuracy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['expected_calibration_error']


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """The gap between confidence and accuracy, averaged over samples (`Guo et al, 2017 <https://arxiv.org/abs/1706.04599>`_).

    Samples are put into bins of equal width by the probability of their most probable class, the confidence; bin ``m``
    holds those in ``((m - 1) / bins, m / bins]``. The error is the sum over bins of their share of the samples times
    ``|accuracy - mean confidence|``.

    Args:
        logits: ``[N, C]``, of any floating type.
        labels: ``[N]``, the true classes.
        bins: How many. Default: ``15``.

    Returns:
        Tensor: The error, between 0 and 1, a float64 tensor without dimensions.
    """
    confidence = F.softmax(logits.float(), dim=1).amax(dim=1).double()
    # Of the logits, not of the probabilities, which may be equal where the logits are not.
    correct = (logits.argmax(dim=1) == labels).double()
    edges = torch.arange(1, bins, dtype=torch.float64, device=logits.device) / bins
    bin_of = torch.bucketize(confidence, edges)
    # |sum of (correct - confidence)| of a bin is its number of samples times the gap of its means.
    gaps = confidence.new_zeros(bins).index_add_(0, bin_of, correct - confidence)
    return gaps.abs().sum() / len(labels)
