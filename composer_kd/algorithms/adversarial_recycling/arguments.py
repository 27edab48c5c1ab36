"""What AdversarialRecycling may be given, by the mode that an argument belongs to."""

from __future__ import annotations

import math
import re
from typing import Any

from composer_kd.errors import UserError, nearest

__all__ = ['OF_MODE', 'check_arguments', 'count_of', 'length_of', 'share_of']

_ALL = {'share', 'teachers_see'}
_ATTACK = {'epsilon', 'steps', 'step_size', 'norm', 'targeted', 'start', 'every', 'budget'}

# Which arguments a mode has; what is given beside them would do nothing, and is refused.
OF_MODE = {
    'recycle': _ALL | _ATTACK | {'source', 'keep', 'reset'},
    'fresh': _ALL | _ATTACK,
    'replay': _ALL | {'source'},
}

_VALUES = {
    'mode': tuple(OF_MODE),
    'start': ('random', 'image'),
    'keep': ('newest', 'strongest'),
    'teachers_see': ('shown', 'clean'),
}


def check_arguments(mode: str, given: dict[str, Any]) -> None:
    """Refuse words that are none, and arguments of other modes."""
    for name, value in {'mode': mode, **given}.items():
        if name in _VALUES and value not in _VALUES[name]:
            raise UserError(f'{name}: {value!r} is not one of them; {nearest(value, _VALUES[name])}')
    for name, value in given.items():
        if name != 'mode' and name not in OF_MODE[mode] and value is not None:
            homes = ' and '.join(repr(other) for other, names in OF_MODE.items() if name in names)
            raise UserError(f'{name}: mode {mode!r} does not use it ({homes} does); leave it out')
    if mode == 'replay' and given.get('source') is None:
        raise UserError("source: mode 'replay' needs the run directory of an earlier run that recorded its examples")


def share_of(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 < value <= 1:
        raise UserError(f'share: expected a share of the batch above 0 and up to 1, got {value!r}')
    return float(value)


def count_of(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f'{name}: expected a whole number from 1 on, got {value!r}')
    if value > 10**9:
        raise UserError(f'{name}: expected at most 1e9, got {value!r}')
    return value


def length_of(value: Any, name: str) -> tuple[int, str]:
    """``'10ep'`` as (10, 'ep'); batches are ``ba``."""
    found = re.fullmatch(r'([1-9][0-9]{0,8})(ep|ba)', value) if isinstance(value, str) else None
    if found is None:
        raise UserError(f"{name}: expected a number of epochs or batches, as '10ep' or '500ba', got {value!r}")
    return int(found[1]), found[2]
