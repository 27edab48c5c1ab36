"""How long the teachers take, on devices that answer at once and on those that do not."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ['Clock']


class Clock:
    """Sums the seconds of the work inside its ``with`` blocks.

    On a CUDA device the work is only queued when a block ends: events mark its ends there, and :meth:`seconds` reads
    them when the device has come past, so nothing waits.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._marks: list[tuple[Any, Any]] = []  # CUDA events

    @contextmanager
    def running(self, cuda: bool):
        if cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(torch.cuda.current_stream())
            yield
            end.record(torch.cuda.current_stream())
            self._marks.append((start, end))
        else:
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun

    def seconds(self) -> float:
        """All seconds so far; on CUDA, wait for the marks that are still under way."""
        for start, end in self._marks:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        self._marks.clear()
        return self._seconds
