"""What one rank does for all: files are written by rank 0, and its mistakes are everyone's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from composer.utils import dist

from composer_kd.errors import UserError

__all__ = ['on_rank_zero']

T = TypeVar('T')


def on_rank_zero(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 and give its result to all ranks; its :class:`UserError` is raised on all of them."""
    if dist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]
