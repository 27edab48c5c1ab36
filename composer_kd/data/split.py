"""Which samples validate, which train: chosen by a hash of their content, class by class.

A sample keeps its side when the data are re-ordered or grow at the end, and identical images always share a side.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from composer_kd.errors import UserError
from composer_kd.functional.counter import counter_hash

__all__ = ['check_classes', 'choose_stratified', 'choose_validation', 'quotas']


def choose_validation(hashes: NDArray[np.uint64], labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Mark ``fraction`` of each class (at least one sample) for validation: those with the lowest content hashes.

    Copies of one image count together, whatever their labels: where one is chosen, all are. A class may therefore give
    a few samples more than its share.

    Args:
        hashes: A 64-bit hash of each sample's pixels.
        labels: The class of each sample.
        fraction: From 0 to 0.5.
    """
    chosen = np.zeros(len(labels), np.bool_)
    if fraction == 0:
        return chosen
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        wanted = max(1, round(fraction * len(of_class)))
        threshold = np.sort(hashes[of_class])[wanted - 1]
        chosen[of_class] = hashes[of_class] <= threshold
    return np.isin(hashes, hashes[chosen])


def choose_stratified(
    hashes: NDArray[np.uint64], labels: NDArray[np.int64], count: int, seed: int = 0
) -> NDArray[np.int64]:
    """The ascending positions of ``count`` samples: the lowest hashes of each class, in proportion to its size.

    Args:
        hashes: A 64-bit hash of each sample's pixels.
        labels: The class of each sample.
        count: How many, or all where there are fewer.
        seed: Any but 0 chooses by a hash of (seed, content hash) instead: choices that overlap by chance.
    """
    if seed:
        hashes = counter_hash(seed, torch.from_numpy(hashes.view(np.int64))).numpy().view(np.uint64)
    classes, sizes = np.unique(labels, return_counts=True)
    chosen = []
    for label, quota in zip(classes, quotas(sizes, count), strict=True):
        of_class = np.flatnonzero(labels == label)
        chosen.append(of_class[np.argsort(hashes[of_class], kind='stable')[:quota]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide ``count`` in proportion to ``sizes``, by largest remainders, never more than there is."""
    count = min(count, int(sizes.sum()))
    exact = sizes * (count / max(1, sizes.sum()))
    shares = np.floor(exact).astype(np.int64)
    # Lowest class first among equal remainders; rounding keeps float noise from deciding between equals.
    order = np.argsort(-np.round(exact - shares, 9), kind='stable')
    shares[order[: count - int(shares.sum())]] += 1
    return shares


def check_classes(labels: NDArray[np.int64], classes: list[str], what: str, remedy: str) -> None:
    """Refuse a part of the data that is empty or lacks a class.

    Args:
        labels: The labels of the part.
        classes: The names of all classes.
        what: Names the part in the error line.
        remedy: Ends the error line.
    """
    if len(labels) == 0:
        raise UserError(f'{what} is empty; {remedy}')
    counts = np.bincount(labels, minlength=len(classes))
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        others = f' and {len(absent) - 1} more' if len(absent) > 1 else ''
        raise UserError(f'{what} has no sample of class {classes[absent[0]]!r}{others}; {remedy}')
