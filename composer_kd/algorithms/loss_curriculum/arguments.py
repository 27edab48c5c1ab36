"""What LossCurriculum may be given: checked by value, and by the mode that an argument belongs to."""

from __future__ import annotations

import math
from typing import Any

from composer_kd.errors import UserError, nearest

__all__ = ['OF_MODE', 'one_of', 'refuse_arguments_of_other_modes', 'share_of']

# Which arguments a mode has; what is given beside them would do nothing, and is refused.
OF_MODE = {
    'curriculum': {'archive', 'statistic', 'order', 'pacing', 'start', 'until', 'use', 'unseen', 'balanced'},
    'infobatch': {'prune', 'full_from'},
    'rho': {'archive', 'statistic', 'unseen', 'keep'},
}


def refuse_arguments_of_other_modes(mode: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if name != 'mode' and name not in OF_MODE[mode] and value is not None:
            homes = ' and '.join(repr(other) for other, names in OF_MODE.items() if name in names)
            raise UserError(f'{name}: mode {mode!r} does not use it ({homes} does); leave it out')


def one_of(value: Any, name: str, known: Any) -> None:
    if value not in known:
        raise UserError(f'{name}: {value!r} is not one of them; {nearest(value, known)}')


def share_of(value: float, name: str, one: bool) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 < value <= 1 or (value == 1 and not one):
        raise UserError(f'{name}: expected a share above 0 and {"up to" if one else "below"} 1, got {value!r}')
    return float(value)
