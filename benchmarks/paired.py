"""Few seeds, honestly: means with their spread, and differences between runs of equal seeds with Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ['Paired', 'p_value', 'quantile', 'spread']


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
