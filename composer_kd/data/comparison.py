"""Compare a new data set with the one that a model was trained on: what is new, relabelled, gone, or shifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer_kd.data.dataset import DatasetInfo, SampleTable, mean_and_std

__all__ = ['DataComparison', 'TrainingPart', 'compare']

# A channel's mean that moved by less than this part of its standard deviation is not worth a line.
_NOTABLE_SHIFT = 0.05


@dataclass(frozen=True)
class TrainingPart:
    """The samples that a model is trained on.

    Attributes:
        table: One row each.
        classes: The names of their classes.
    """

    table: SampleTable
    classes: tuple[str, ...]

    @classmethod
    def of(cls, table: SampleTable, info: DatasetInfo) -> TrainingPart:
        return cls(table, info.classes)


@dataclass(frozen=True)
class DataComparison:
    """How a new training part differs from an earlier one; samples are told apart by the hash of their pixels.

    Attributes:
        samples: In the new part.
        earlier_samples: In the earlier part; like all that follows from it, ``None`` where that is no longer at hand.
        unseen: New samples whose pixels the earlier part does not have.
        relabelled: New samples that the earlier part has, under another class.
        gone: Earlier samples that the new part does not have.
        new_classes: Classes that the earlier part lacks.
        lost_classes: Earlier classes that the new part lacks.
        shift: How far the mean of a channel has moved at most, in standard deviations of the earlier part.
    """

    samples: int
    earlier_samples: int | None = None
    unseen: int | None = None
    relabelled: int | None = None
    gone: int | None = None
    new_classes: tuple[str, ...] = ()
    lost_classes: tuple[str, ...] = ()
    shift: float | None = None

    @property
    def unseen_share(self) -> float | None:
        return None if self.unseen is None else self.unseen / self.samples

    def lines(self) -> list[str]:
        """Say it in lines for a person."""
        if self.earlier_samples is None:
            unknown = 'the earlier data is not at hand, so how many are new is not known'
            lines = [f'{self.samples:,} training samples; {unknown}']
        else:
            parts = [f'{self.unseen_share:.0%} of them never seen']
            if self.relabelled:
                parts.append(f'{self.relabelled:,} with another label than before')
            if self.gone:
                parts.append(f'{self.gone:,} of the earlier {self.earlier_samples:,} gone')
            lines = [f'{self.samples:,} training samples, {", ".join(parts)}']
        if self.new_classes:
            lines.append(f'{len(self.new_classes)} new classes: {_some(self.new_classes)}')
        if self.shift is not None and self.shift >= _NOTABLE_SHIFT:
            lines.append(f'the mean of a channel has moved by {self.shift:.2f} standard deviations')
        return lines


def compare(new: TrainingPart, earlier: TrainingPart | None, earlier_classes: Sequence[str]) -> DataComparison:
    """Compare two training parts.

    Args:
        new: What the model is to be trained on.
        earlier: What it was trained on; ``None`` where that is no longer at hand.
        earlier_classes: The classes that the model knows.
    """
    new_classes = tuple(name for name in new.classes if name not in set(earlier_classes))
    lost_classes = tuple(name for name in earlier_classes if name not in set(new.classes))
    if earlier is None:
        return DataComparison(len(new.table), new_classes=new_classes, lost_classes=lost_classes)
    rows = _rows_by_content(earlier.table.hashes, new.table.hashes)
    known = rows >= 0
    before = np.array(earlier.classes)[earlier.table.labels[rows[known]]]
    now = np.array(new.classes)[new.table.labels[known]]
    return DataComparison(
        samples=len(new.table),
        earlier_samples=len(earlier.table),
        unseen=int((~known).sum()),
        relabelled=int((before != now).sum()),
        gone=int((~np.isin(earlier.table.hashes, new.table.hashes)).sum()),
        new_classes=new_classes,
        lost_classes=lost_classes,
        shift=_shift(new.table, earlier.table),
    )


def _rows_by_content(known: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find for each of ``wanted`` a row of ``known`` with its hash, or -1."""
    order = np.argsort(known, kind='stable')
    places = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    rows = order[places]
    return np.where(known[rows] == wanted, rows, -1)


def _shift(new: SampleTable, earlier: SampleTable) -> float | None:
    if new.sums.shape[1:] != earlier.sums.shape[1:]:
        return None
    (mean_now, _), (mean_then, std_then) = mean_and_std(new), mean_and_std(earlier)
    moved = [abs(now - then) / std for now, then, std in zip(mean_now, mean_then, std_then, strict=True) if std]
    return max(moved, default=0.0)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
