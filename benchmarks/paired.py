"""Few seeds, honestly: means with their spread, differences of pairs with Student's t, and what was not reached."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ['Paired', 'Run', 'at_least', 'held_from', 'p_value', 'pairs', 'quantile', 'repetition', 'spread']

Run = dict[str, Any]


@dataclass(frozen=True)
class Paired:
    """Differences of pairs: their mean, the half width of its 95 % interval, and how likely chance does as much.

    The interval and the probability assume differences that are normally distributed; one pair has neither.
    """

    mean: float
    half: float | None
    p: float | None
    n: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        n, mean = len(differences), statistics.fmean(differences)
        if n < 2:
            return cls(mean, None, None, n)
        error = statistics.stdev(differences) / math.sqrt(n)
        p = p_value(mean / error, n - 1) if error else float(mean == 0)
        return cls(mean, quantile(0.95, n - 1) * error, p, n)

    def __str__(self) -> str:
        return self.text()

    def text(self, digits: int = 1) -> str:
        if self.half is None or self.p is None:
            return f'{self.mean:+.{digits}f}'
        chance = f'{self.p:.3f}' if self.p >= 0.001 else '<0.001'
        low, high = self.mean - self.half, self.mean + self.half
        return f'{self.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}), p {chance}'


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and sample standard deviation."""
    if len(values) < 2:
        return f'{values[0]:.{digits}f}'
    return f'{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}'


def at_least(values: Sequence[tuple[float, bool]], unit: str = '', digits: int = 1) -> str:
    """Of what something took: mean and deviation; where some runs did not get there, a lower bound of the mean of all.

    Args:
        values: What each run took, or what it had taken when it ended, and whether it got there.
        unit: Behind the numbers.
        digits: Behind the point.
    """
    numbers, there = [value for value, _ in values], sum(reached for _, reached in values)
    if there == len(numbers):
        return spread(numbers, digits) + unit
    return f'≥ {statistics.fmean(numbers):.{digits}f}{unit} ({there} of {len(numbers)})'


def repetition(name: str, arm: str) -> int:
    """Which repetition of its arm a run is, by its name: ``warm1-s2`` is the third one of ``warm1``."""
    return int(name.removeprefix(f'{arm}-s')) if name != arm else 0


def pairs(own: Sequence[Run], theirs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Runs of two arms that are the same repetition: they learn from the same runs, whatever their seeds are."""
    others = {one['repetition']: one for one in theirs}
    return [(one, others[one['repetition']]) for one in own if one['repetition'] in others]


def p_value(t: float, freedom: int) -> float:
    """Two-sided: how likely a t at least as far from zero is."""
    return 1.0 - _area(math.atan(abs(t) / math.sqrt(freedom)), freedom) / _area(math.pi / 2, freedom)


def quantile(level: float, freedom: int) -> float:
    """The t that ``level`` of the distribution lies within, on both sides of zero."""
    low, high, whole = 0.0, math.pi / 2, _area(math.pi / 2, freedom)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _area(middle, freedom) < level * whole else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _area(angle: float, freedom: int, parts: int = 2000) -> float:
    # With t = sqrt(freedom) tan(angle) Student's density is a power of the cosine; Simpson's rule on that.
    width = angle / parts
    ends = 1.0 + math.cos(angle) ** (freedom - 1)
    inner = sum((4 if k % 2 else 2) * math.cos(k * width) ** (freedom - 1) for k in range(1, parts))
    return width / 3 * (ends + inner)


def held_from(values: Sequence[float], level: float) -> int | None:
    """The place from which on all values are at least as high: one good measurement among poorer ones is noise."""
    below = [place for place, value in enumerate(values) if value < level]
    first = below[-1] + 1 if below else 0
    return first if first < len(values) else None
