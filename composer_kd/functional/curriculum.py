"""Curricula as pure functions: how much of the data, in which order, with which weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from composer_kd.functional.counter import counter_hash, uniform

__all__ = ['PACINGS', 'pace', 'places', 'prune', 'share_weights', 'top_share', 'within_share']

# Named apart from every other draw and from each other, so that none repeats another.
_TIES, _PRUNING = 0x7135, 0x9127
# 3 of 10 stay 3 when their share was computed as 0.30000000000000004.
_ROUNDING = 1e-9

PACINGS = ('linear', 'root', 'exponential', 'step')


def pace(pacing: str, start: float, done: float) -> float:
    """The share of the data that is in use: from ``start`` to 1 while ``done`` goes from 0 to 1.

    ==================  ===========================================  ==================================================
    ``linear``          ``start + (1 - start) done``                 as many new samples in every epoch
    ``root``            ``sqrt(start^2 + (1 - start^2) done)``       fewer and fewer (Platanios et al, 2019)
    ``exponential``     ``start^(1 - done)``                         more and more, by one factor
    ``step``            ``start`` until ``done`` is 1, then 1        two stages
    ==================  ===========================================  ==================================================

    Args:
        pacing: One of the four.
        start: The share in the beginning, above 0.
        done: How far it has come, from 0 to 1.
    """
    if done >= 1:
        return 1.0
    if pacing == 'linear':
        return start + (1 - start) * done
    if pacing == 'root':
        return math.sqrt(start**2 + (1 - start**2) * done)
    if pacing == 'exponential':
        return start ** (1 - done)
    assert pacing == 'step', pacing
    return start


def places(values: Tensor, ids: Tensor, groups: Tensor | None = None) -> Tensor:
    """Each sample's place in the order of the values, as a share: 0 for the lowest, just below 1 for the highest.

    Equal values are ordered by a hash of the id, so that neither the data's order nor its numbering decides.

    Args:
        values: ``[n]``; NaN for a sample without one, whose place is NaN too.
        ids: int64 ``[n]``.
        groups: int64 ``[n]``, from 0 on: places are counted in each group by itself. ``None`` for one group.
    """
    rows = (~values.isnan()).nonzero().squeeze(1)
    group = torch.zeros_like(ids) if groups is None else groups
    for key in (counter_hash(_TIES, ids), values, group):
        rows = rows[key[rows].argsort(stable=True)]
    sizes = torch.bincount(group[rows])
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(len(rows), device=rows.device) - first[group[rows]]
    found = torch.full_like(values, torch.nan, dtype=torch.float64)
    found[rows] = rank.double() / sizes[group[rows]]
    return found


def within_share(place: Tensor, share: float) -> Tensor:
    """Which samples stand in the lowest ``share`` of their group: rounded up, so at least one of each group."""
    return (place < share - _ROUNDING) | (place == 0)


def share_weights(place: Tensor, share: float) -> Tensor:
    """Weights instead of a selection: in proportion to 1 within the share and to share / place beyond, 1 on average.

    At ``share`` 1 all are 1. A sample without a place (NaN) weighs as one within the share.
    """
    weights = share / place.nan_to_num(0.0).clamp(min=share)
    return weights / weights.mean()


def prune(losses: Tensor, ids: Tensor, probability: float, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Leave out samples whose loss is below the mean, at random, and let those that stay speak for them (InfoBatch).

    ``kept * weights`` is 1 on average over epochs for every sample, so that the expected gradient is that of all data.

    Args:
        losses: ``[n]``; NaN where none is known: such a sample stays, and is not in the mean.
        ids: int64 ``[n]``: together with ``seed`` and ``epoch`` they decide, whatever else there is in the data.
        probability: Of leaving a sample out.
        seed: Of the run.
        epoch: The epoch that is about to begin.

    Returns:
        Which samples stay, and the weight of each.
    """
    low = losses < losses.nanmean()
    kept = ~low | (uniform(_PRUNING, seed, epoch, ids) >= probability)
    return kept, torch.where(low, 1 / (1 - probability), 1.0)


def top_share(values: Tensor, ids: Tensor, share: float) -> Tensor:
    """Which samples have the highest values: the ``share`` of those that have one (not NaN), rounded up."""
    return within_share(places(-values, ids), share)
