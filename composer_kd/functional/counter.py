"""Random numbers without a generator: pure functions of integers, equal on every device and in every process.

Whatever must come out the same after a resume, on another number of ranks or in a teacher's old recording is drawn from
here, by naming it: ``uniform(seed, sample_id, view)`` instead of the next number of some generator's hidden state.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

__all__ = ['counter_hash', 'uniform']

# SplitMix64 (Steele, Lea and Flood, 2014): the golden ratio's increment and the finaliser's two multipliers.
_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def counter_hash(*integers: int | Tensor) -> Tensor:
    """Hash a tuple of integers to 64 bits.

    Each integer is added to the running hash, which then goes through SplitMix64's finaliser (a bijection of the 64-bit
    words), so the order and the number of the integers matter and two tuples that differ in their last integer alone
    never collide.

    Args:
        *integers: Any mix of Python integers (taken modulo 2^64) and integer tensors that broadcast.

    Returns:
        An int64 tensor of the broadcast shape (no dimensions when no tensor was given), on the tensors' device.
    """
    hashed: int | Tensor = 0
    for integer in integers:
        if isinstance(integer, Tensor):
            if integer.is_floating_point() or integer.is_complex():
                raise TypeError(f'counter_hash takes integers, got a tensor of {integer.dtype}')
            integer = integer.to(torch.int64)
        else:
            integer = operator.index(integer)  # also numpy's integers
        hashed = _mix(_add(_add(hashed, _GAMMA), integer))
    return hashed if isinstance(hashed, Tensor) else torch.tensor(_signed(hashed), dtype=torch.int64)


def uniform(*integers: int | Tensor) -> Tensor:
    """A float64 tensor of numbers strictly between 0 and 1, drawn by :func:`counter_hash` of the same integers."""
    # 52 bits plus a half: exact in float64, so neither end is ever reached and no device rounds differently.
    return (_shift_right(counter_hash(*integers), 12).to(torch.float64) + 0.5) * 2.0**-52


def _add(left: int | Tensor, right: int | Tensor) -> int | Tensor:
    """The sum modulo 2^64; Python integers stay Python integers, so that leading constants cost nothing."""
    if isinstance(left, int) and isinstance(right, int):
        return (left + right) & _WORD
    return (_signed(left) if isinstance(left, int) else left) + (_signed(right) if isinstance(right, int) else right)


def _mix(word: int | Tensor) -> int | Tensor:
    """SplitMix64's finaliser, of a Python integer or of a tensor: the same bits."""
    if isinstance(word, Tensor):
        word = (word ^ _shift_right(word, 30)) * _signed(_FIRST)
        word = (word ^ _shift_right(word, 27)) * _signed(_SECOND)
        return word ^ _shift_right(word, 31)
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def _shift_right(word: Tensor, bits: int) -> Tensor:
    """The logical shift: torch's own copies the sign of an int64 into the top bits."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of ``word`` modulo 2^64."""
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word
