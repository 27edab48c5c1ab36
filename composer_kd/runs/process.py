"""Keeping freed memory for the next step instead of giving it back to the system, on the CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import torch
from composer.utils import dist, get_device

__all__ = ['join_ranks', 'keep_freed_memory']

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


def join_ranks(device: str) -> None:
    """Let the ranks find each other before the first of them has something to tell the others.

    Args:
        device: ``auto``, ``cpu`` or ``gpu``.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) == 1 or dist.is_initialized():
        return
    found = get_device(None if device == 'auto' else device)
    if found.name == 'cpu' and 'OMP_NUM_THREADS' not in os.environ:
        # Each rank would take every core for itself, and they would spend their time waiting for each other.
        torch.set_num_threads(max(torch.get_num_threads() // dist.get_local_world_size(), 1))
    dist.initialize_dist(found)
