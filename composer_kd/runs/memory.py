"""Keeping freed memory for the next step instead of giving it back to the system, on the CPU."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

__all__ = ['keep_freed_memory']

# Names and numbers of malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell the GNU C library to keep what is freed; whether it could be told.

    A training step frees hundreds of megabytes of activations and asks for them again in the next one. By default they
    go back to the system, and every page is cleared and mapped anew, in a teacher's forward pass as well. Other C
    libraries and systems are left as they are.
    """
    if not sys.platform.startswith('linux'):
        return False
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20))
        answers = [library.mallopt(name, value) for name, value in settings]
        return all(answer == 1 for answer in answers)
    return False
