"""Training the cells of a scale: several processes share the work, each cell is trained once, a kill costs an epoch."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from benchmarks.retrain.cells import Cell, Scale
from benchmarks.retrain.measures import refuse_another
from benchmarks.retrain.results import Results, line_of, line_of_failure
from composer_kd.archive import RunDir
from composer_kd.core.errors import UserError
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.progress import RunProgress
from composer_kd.storage.locks import locked

__all__ = ['Worker', 'spawn', 'worker']

POLL_SECONDS = 2.0


class BusyError(Exception):
    """Another process trains what is needed now."""


class Worker:
    """Trains one cell after another.

    Args:
        scale: Whose cells.
        results: Where a line is added for each.
        stream: Where the lines of progress go.
        deadline: Seconds of ``time.monotonic`` after which no cell is begun.
    """

    def __init__(self, scale: Scale, results: Results, stream: TextIO, deadline: float | None = None):
        self.scale, self.results, self.stream, self.deadline = scale, results, stream, deadline
        self.folder = Path(scale.yaml['save_folder'])

    def run(self, only: Iterable[str] = (), most: int | None = None) -> bool:
        """Train all cells that are open, at most so many; whether none was left."""
        done = 0
        while True:
            known = self.results.by_name()
            cells = list(self.scale.cells(only))
            for cell in cells:
                if cell.name in known:
                    refuse_another(cell, known[cell.name])
            open_cells = [cell for cell in cells if cell.name not in known]
            if not open_cells and not self.scale.waiting(only):
                return True
            if (most is not None and done >= most) or (self.deadline and time.monotonic() >= self.deadline):
                return False
            if self._train_one(open_cells):
                done += 1
            else:
                time.sleep(POLL_SECONDS)

    def _train_one(self, cells: Sequence[Cell]) -> bool:
        for cell in cells:
            try:
                self._say(f'{cell.name}: {len(cells)} cells are open')
                self.train(cell)
            except BusyError:
                continue
            return True
        return False

    def train(self, cell: Cell) -> None:
        """Train a cell, after what it needs that is not on this disk, and add its line."""
        for one in cell.family:
            with self._claim(one):
                if one.name != cell.name and RunDir(self.folder / one.name).finished:
                    continue
                if one.name == cell.name and one.name in self.results.by_name():
                    continue
                try:
                    train(one, self.folder, RunProgress(False, stream=self.stream))
                except UserError as error:
                    if 'finite' not in str(error) or one is not cell:
                        raise
                    self.results.add(line_of_failure(one, str(error).partition(';')[0]))
                    return
                if one.name not in self.results.by_name():
                    self.results.add(line_of(one, RunDir(self.folder / one.name)))

    def alone(self, cells: Iterable[Cell]) -> None:
        """Train cells for their seconds, with nothing beside them, in a folder of its own; none after the deadline."""
        known = self.results.by_name(alone=True)
        folder = self.folder / 'alone'
        for cell in cells:
            if cell.name not in known:
                if self.deadline and time.monotonic() >= self.deadline:
                    self._say('the time is over; the same command goes on')
                    return
                for one in cell.family:
                    at = folder if one is cell else self.folder
                    if not RunDir(at / one.name).finished:
                        train(one, self.folder, RunProgress(False, stream=self.stream), own=at / one.name)
                self.results.add(line_of(cell, RunDir(folder / cell.name), alone=True))

    @contextmanager
    def _claim(self, cell: Cell) -> Iterator[None]:
        with locked(self.folder / '.claims' / cell.name, wait=False) as held:
            if not held:
                raise BusyError
            yield

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


def train(cell: Cell, folder: Path, progress: RunProgress, own: Path | None = None) -> None:
    """Train a cell whose needs are finished.

    Args:
        cell: Which.
        folder: Where the runs are that it needs.
        progress: Where lines go.
        own: Its run directory; by default the one in ``folder``.
    """
    entries = {one.name: dict(one.entry) for one in cell.family}
    plan = make_plan({'name': folder.name, 'save_folder': str(folder), 'lineage': entries}, where=cell.name)
    plan = plan.only(cell.name)
    if own is not None:
        plan = replace(plan, runs=tuple(replace(run, folder=own) for run in plan.runs))
    execute(plan, progress)
    gc.collect()


def worker(scale: Scale, results: Results, minutes: float | None) -> Worker:
    """One that says what it does, and begins nothing after so many minutes."""
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    return Worker(scale, results, sys.stdout, deadline)


def spawn(arguments: Sequence[str], workers: int, minutes: float | None) -> int:
    """The same command in several processes; at the deadline they are interrupted, and go on when it is given again."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    environment = {**os.environ, 'OMP_NUM_THREADS': str(max(1, cores // workers))}
    command = [sys.executable, '-m', 'benchmarks.retrain', *arguments, '--workers', '1']
    processes = [subprocess.Popen(command, env=environment, start_new_session=True) for _ in range(workers)]
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    try:
        while any(process.poll() is None for process in processes):
            if deadline is not None and time.monotonic() >= deadline:
                break
            if any(process.poll() not in (None, 0) for process in processes):
                break
            time.sleep(0.2)
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
    return max((process.returncode for process in processes if process.returncode not in (-2, 130)), default=0)
