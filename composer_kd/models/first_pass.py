"""What counts of a step whose passes may run twice: the first that comes to its end."""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ['FirstPass']

T = TypeVar('T')


class FirstPass(Generic[T]):
    """The items that a step's microbatches left, once, whatever runs twice.

    SAM runs the forward and backward passes of a step twice, and a retry after running out of memory does too. A pass
    begins from nothing (:meth:`start`, at BEFORE_TRAIN_BATCH); the first that comes to its end (:meth:`end`, at
    AFTER_TRAIN_BATCH) is the step's: that at the weights which the step began with. :meth:`take` it at BATCH_END.
    """

    def __init__(self) -> None:
        self._pass: list[T] = []
        self._first: list[T] | None = None

    def start(self) -> None:
        self._pass = []

    def add(self, item: T) -> None:
        self._pass.append(item)

    def end(self) -> None:
        if self._first is None:
            self._first = self._pass

    def take(self) -> list[T]:
        """The step's items; the next step begins from nothing."""
        items = self._pass if self._first is None else self._first
        self._pass, self._first = [], None
        return items
