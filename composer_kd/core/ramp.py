"""A number that may change while a training goes on: a weight, a temperature."""

from __future__ import annotations

import math
import re
import warnings

from composer_kd.core.errors import UserError
from composer_kd.core.schedule import Progress, Schedule

__all__ = ['FORMS', 'Ramp']

_NUMBER = r'(-?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)'
_SPAN = r'\d+(?:\.\d+)?\s*(?:ep|ba|dur)|\.\d+\s*dur'
FORMS = {
    '8 to 1': 'in a straight line over the whole training',
    '0 to 1 until 20ep': 'over its beginning, and 1 from there on; also until 500ba, until 0.5dur (of the training)',
    '..., cosine': 'after either: beginning and ending gently',
}
"""What a number that changes looks like, and what it means."""
_GRAMMAR = "'8 to 1', '2 to 1 until 20ep' or '1 to 0.1 until 0.5dur, cosine'"


class Ramp:
    """A number, constant or going from one to another: a pure function of the progress, as a schedule is.

    ``'8 to 1'`` goes in a straight line over the whole training, ``'0 to 1 until 20ep'`` over its beginning and stays
    there; ``', cosine'`` begins and ends gently.

    Args:
        value: The number, or such a text.
        name: What it is, for error lines.
        above: It is never below this, nor equal to it where ``open`` is set.
        open: Whether ``above`` itself is refused.
        most: It is never more than this: what is larger was not meant.

    Example:
        >>> Ramp('0 to 1 until 20ep').at(Progress(epoch=5, batch=500))
        0.25
    """

    def __init__(
        self,
        value: float | str,
        name: str = 'the value',
        above: float = 0.0,
        open: bool = False,
        most: float = 1e6,
    ):
        self.name = name
        self.value = value
        self._fall: Schedule | None = None  # 1 at the beginning of the ramp, 0 from its end on.
        match = None
        if isinstance(value, str):
            match = re.fullmatch(rf'{_NUMBER} to {_NUMBER}(?: until ({_SPAN}))?(?:, (linear|cosine))?', value.strip())
        if match:
            self.first, self.last = float(match[1]), float(match[2])
            try:
                self._fall = Schedule(f'first {match[3] or "1dur"}, {match[4] or "linear"} decay')
            except UserError:
                raise UserError(f'{name}: {value!r}: until is a time after 0ep, and at most 1dur') from None
        elif isinstance(value, str) and re.search(r'\b(to|until)\b', value):
            raise UserError(f'{name}: {value!r} is not a number that changes; write {_GRAMMAR}')
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self.first = self.last = float(value)
        else:
            self.first = self.last = math.nan
        for number in (self.first, self.last):
            if not math.isfinite(number) or number < above or (open and number == above):
                bound = 'above' if open else 'from'
                raise UserError(
                    f'{name} is a finite number {bound} {above:g}{"" if open else " on"}, got {value!r}; '
                    f'one that changes is written as {_GRAMMAR}'
                )
            if number > most:
                raise UserError(f'{name} is at most {most:g}, got {value!r}')

    def at(self, progress: Progress) -> float:
        if self._fall is None:
            return self.last
        return self.last + (self.first - self.last) * self._fall.weight(progress)

    def check(self, progress: Progress, where: str = '') -> None:
        """Refuse, at the start of a training, what cannot work in it: parts of a length that is not known.

        Args:
            progress: At its start.
            where: The place in a file, before the number's name.
        """
        if self._fall is not None and self._fall.stop.unit == 'dur' and not (progress.epochs or progress.batches):
            raise UserError(
                f'{where}{self.name}: {self.value!r} needs to know how long the training is; give max_duration in ep '
                f"or ba (sp needs a loader that has a length), or an end as in 'until 20ep'"
            )
        length = progress.epochs or math.inf
        if self._fall is not None and self._fall.stop.unit == 'ep' and self._fall.stop.value > length:
            warnings.warn(
                f'{where}{self.name}: {self.value!r} ends after the training ({length:g}ep), which sees a part of it',
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return repr(self.value)
