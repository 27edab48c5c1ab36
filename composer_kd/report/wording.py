"""Numbers as people read them: percentages, durations and multiply-adds with one unit a column, and spreads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from composer_kd.report.measures import Spread

__all__ = [
    'MEGABYTES',
    'MISSING',
    'NATS',
    'PERCENT',
    'Unit',
    'mean_text',
    'percent',
    'seeds',
    'times',
    'unit_for',
    'with_spread',
]

MISSING = '–'


@dataclass(frozen=True)
class Unit:
    """A scale for one kind of number; ``name`` is what stands behind it."""

    name: str
    size: float = 1.0
    digits: int = 1

    def text(self, value: float, decimals: int | None = None) -> str:
        return f'{value / self.size:,.{self.digits if decimals is None else decimals}f}'

    def quantity(self, value: float) -> str:
        """Number and unit, for a sentence: whole numbers bare, others with about three figures."""
        scaled = value / self.size
        decimals = 0 if scaled == round(scaled) or scaled >= 100 else 1 if scaled >= 10 or self.size == 1 else 2
        name = 'epoch' if self.name == 'epochs' and scaled == 1 else self.name
        return f'{scaled:,.{decimals}f}\u00a0{name}'.rstrip()


PERCENT = Unit('%', 0.01, 2)
NATS = Unit('', digits=3)
MEGABYTES = Unit('MB', 1e6, 2)
_SCALES = {
    'epochs': (Unit('epochs'),),
    'outputs': (Unit('outputs', digits=0), Unit('thousand', 1e3), Unit('million', 1e6, 2)),
    'seconds': (Unit('s'), Unit('min', 60.0), Unit('h', 3600.0)),
    'multiply_adds': tuple(
        Unit(prefix, 1000.0**power, 2) for power, prefix in enumerate(('', 'k', 'M', 'G', 'T', 'P', 'E', 'Z'))
    ),
}


def unit_for(cost: str, values: Iterable[float]) -> Unit:
    """The largest unit of ``cost`` in which the largest of ``values`` is still a comfortable number."""
    scales, largest = _SCALES[cost], max(values, default=0.0)
    if cost == 'seconds':
        return scales[2] if largest >= 6 * 3600 else scales[1] if largest >= 600 else scales[0]
    return next((unit for unit in reversed(scales) if largest >= unit.size), scales[0])


def with_spread(spread: Spread | None, unit: Unit, of: int | None = None) -> str:
    """``'41.23 ±0.60'``; ``' (2/3)'`` behind it where fewer than ``of`` runs are in the mean."""
    if spread is None:
        return MISSING
    text = mean_text(spread, unit)
    if spread.sd is not None:
        text += f' ±{unit.text(spread.sd)}'
    return text if of is None or spread.n == of else f'{text} ({spread.n}/{of})'


def mean_text(spread: Spread, unit: Unit) -> str:
    """The mean alone; the epoch of a single run is a whole number."""
    return unit.text(spread.mean, 0 if unit.name == 'epochs' and spread.n == 1 else None)


def percent(value: float) -> str:
    """A threshold: ``'40 %'``, ``'62.5 %'``; the space does not break."""
    return f'{100 * value:.4g}\u00a0%'


def times(ratio: float) -> str:
    """``'1.33×'``; two figures where two decimals would leave less: ``'0.00064×'``."""
    if 0 < ratio < 0.1:
        return f'{ratio:.{1 - math.floor(math.log10(ratio))}f}'.rstrip('0') + '×'
    return f'{ratio:.2f}×'


def seeds(n: int) -> str:
    return '1 seed' if n == 1 else f'{n} seeds'
