"""The ranks of a launch find each other."""

from __future__ import annotations

import os

import torch
from composer.utils import dist, get_device

__all__ = ['join_ranks']


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
