"""Functions that all ranks call together: rank 0 writes files, and an error of one rank is raised on all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from composer.utils import dist

from composer_kd.core.errors import UserError
from composer_kd.storage.locks import locked

__all__ = ['lock_on_all_ranks', 'on_rank_zero', 'raise_on_all_ranks']

T = TypeVar('T')

_RETRY_SECONDS = 1.0  # Rank 0 must not block in a wait: the other ranks give up after some minutes.


def on_rank_zero(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 and give its result to all ranks; its error is raised on all of them."""
    if dist.get_world_size() == 1:
        return work()
    result_and_error: list[Any] = [None, None]
    own_error: Exception | None = None
    if dist.get_global_rank() == 0:
        try:
            result_and_error[0] = work()
        except Exception as error:  # Whatever it is, the others must not wait for a result.
            own_error, result_and_error[1] = error, str(error) or type(error).__name__
    dist.broadcast_object_list(result_and_error, src=0)
    if own_error is not None:
        raise own_error
    result, message = result_and_error
    if message is not None:
        raise UserError(message)
    return result


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise a :class:`UserError` of any rank on all ranks at the end of the block, so that rank 0 can print it."""
    own_error: UserError | None = None
    try:
        yield
    except UserError as error:
        own_error = error
    messages = [None]
    if dist.get_world_size() > 1:
        messages = dist.all_gather_object(None if own_error is None else str(own_error))
    if own_error is not None:
        raise own_error
    for message in messages:
        if message is not None:
            raise UserError(message)


@contextmanager
def lock_on_all_ranks(path: Path) -> Iterator[None]:
    """Hold a file lock for all ranks of one launch; other processes wait for it, however long that takes."""

    def try_lock() -> bool:
        with ExitStack() as attempt:
            if attempt.enter_context(locked(path, wait=False)):
                stack.push(attempt.pop_all())
                return True
        return False

    with ExitStack() as stack:
        while not on_rank_zero(try_lock):
            time.sleep(_RETRY_SECONDS)
        yield
