"""What ranks do for each other: rank 0 writes files, and one rank's mistake is everyone's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from composer.utils import dist

from composer_kd.core.errors import UserError
from composer_kd.storage.locks import locked

__all__ = ['locked_together', 'on_rank_zero', 'together']

T = TypeVar('T')

_PATIENCE = 1.0  # Seconds between two tries for a lock: ranks that wait for each other longer than minutes give up.


def on_rank_zero(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 and give its result to all ranks; its error is raised on all of them."""
    if dist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if dist.get_global_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as problem:  # Whatever it is, the others must not wait for a result.
            error, outcome[1] = problem, str(problem) or type(problem).__name__
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


@contextmanager
def together() -> Iterator[None]:
    """Leave the block together: a :class:`UserError` of any rank is raised on all, so that rank 0 can tell it."""
    error: UserError | None = None
    try:
        yield
    except UserError as problem:
        error = problem
    if dist.get_world_size() > 1:
        errors = dist.all_gather_object(None if error is None else str(error))
        first = next((text for text in errors if text is not None), None)
        if error is None and first is not None:
            error = UserError(first)
    if error is not None:
        raise error


@contextmanager
def locked_together(path: Path) -> Iterator[None]:
    """Hold a lock by all ranks of one launch; another process that wants it waits, however long that takes."""

    def try_it() -> bool:
        with ExitStack() as attempt:
            if attempt.enter_context(locked(path, wait=False)):
                stack.push(attempt.pop_all())
                return True
        return False

    with ExitStack() as stack:
        while not on_rank_zero(try_it):
            time.sleep(_PATIENCE)
        yield
