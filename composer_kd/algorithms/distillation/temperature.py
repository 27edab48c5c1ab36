"""A temperature that is learned while the student is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from composer_kd.errors import UserError, nearest
from composer_kd.ramp import Ramp
from composer_kd.schedule import Progress

__all__ = ['LearnedTemperature', 'Temperature', 'make_temperature']

# With a higher one all classes are alike to seven digits.
_HIGHEST = 1000.0


class LearnedTemperature:
    """A temperature that climbs the distillation loss while the student descends it.

    The idea of curriculum temperature (`Li et al, 2023 <https://arxiv.org/abs/2211.16231>`_): the target becomes
    harder as the student becomes better. ``T = low + (high - low) sigmoid(u)``, and after every step ``u`` goes up the
    gradient of that step's loss, by ``rate`` times ``strength``. It is one number, kept here and in the checkpoint of
    the algorithm: no parameter of the model, none of the optimizer.

    Args:
        start: The temperature that the training begins at. Default: ``4.0``.
        low: It stays above this. Default: ``1.0``.
        high: It stays below this. Default: ``21.0``.
        rate: The step size. Default: ``0.5``.
        strength: A factor of the step size, which may change. Default: ``'0 to 1 until 0.05dur, cosine'``.
    """

    def __init__(
        self,
        start: float = 4.0,
        low: float = 1.0,
        high: float = 21.0,
        rate: float = 0.5,
        strength: float | str = '0 to 1 until 0.05dur, cosine',
    ):
        for name, value in (('start', start), ('low', low), ('high', high), ('rate', rate)):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise UserError(f'temperature: learned: {name} is a finite number above 0, got {value!r}')
            if value > _HIGHEST:
                raise UserError(f'temperature: learned: {name} is at most {_HIGHEST:g}, got {value!r}')
        if not low < start < high:
            raise UserError(f'temperature: learned: start lies between low and high, got {low} < {start} < {high}')
        self.start, self.low, self.high, self.rate = start, low, high, rate
        self.strength = Ramp(strength, 'temperature: learned: strength')
        self._u = math.log((start - low) / (high - start))

    def at(self, progress: Progress) -> float:
        return self.low + (self.high - self.low) * _sigmoid(self._u)

    def climb(self, slope: float, progress: Progress) -> None:
        """Take a step; ``slope`` is the loss's derivative by the temperature, over all samples of the step."""
        share = _sigmoid(self._u)
        step = self.rate * self.strength.at(progress) * slope * (self.high - self.low) * share * (1 - share)
        if math.isfinite(step):
            # At most 1, so that one steep step does not end where the sigmoid is flat, and there is no way back.
            self._u += min(max(step, -1.0), 1.0)

    def check(self, progress: Progress, where: str = '') -> None:
        self.strength.check(progress, where)

    def state_dict(self) -> dict[str, float]:
        return {'u': self._u}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._u = state['u']

    def __repr__(self) -> str:
        return (
            f'LearnedTemperature(start={self.start}, low={self.low}, high={self.high}, rate={self.rate}, '
            f'strength={self.strength!r})'
        )


Temperature = Ramp | LearnedTemperature


def make_temperature(written: Any) -> Temperature:
    """What a user writes as a temperature: a number, ``'8 to 1'``, ``'learned'`` or ``{learned: {start: 8}}``."""
    if isinstance(written, Ramp | LearnedTemperature):
        return written
    if written == 'learned':
        return LearnedTemperature()
    if isinstance(written, Mapping):
        options = written.get('learned') if len(written) == 1 else None
        if not isinstance(options, Mapping):
            raise UserError(f'temperature: {written!r} is not a temperature; write {{learned: {{start: 4.0}}}}')
        known = ('start', 'low', 'high', 'rate', 'strength')
        for name in options:
            if name not in known:
                raise UserError(f'temperature: learned has no option {name!r}; {nearest(str(name), known)}')
        return LearnedTemperature(**options)
    if isinstance(written, str) and get_close_matches(written, ['learned']):
        raise UserError(f"temperature: {written!r} is not a temperature; did you mean 'learned'?")
    return Ramp(written, 'temperature', open=True, most=_HIGHEST)


def _sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u)) if u >= 0 else math.exp(u) / (1 + math.exp(u))
