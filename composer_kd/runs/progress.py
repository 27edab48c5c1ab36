"""What a person who waits sees: which run of how many, each epoch in a line, and how long it still takes."""

from __future__ import annotations

import re
import sys
import time
from typing import TextIO

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.algorithms.roles import NeedKind
from composer_kd.archive.run_dir import RunDir
from composer_kd.runs.plan import Plan
from composer_kd.runs.planned_run import PlannedRun
from composer_kd.runs.resume import WayOn

__all__ = ['RunProgress', 'duration_text']


# What a run does with what it uses of earlier ones.
_HOW: dict[NeedKind, str] = {
    'losses': 'ordered by the losses of',
    'weights': 'started from',
    'examples': 'with the adversarial examples of',
}


class RunProgress(Callback):
    """Lines on rank 0, one an epoch; with Composer's bar, one a run.

    Args:
        bar: Whether Composer's bar is shown; ``None`` shows it on a terminal.
        stream: Where the lines go.
    """

    def __init__(self, bar: bool | None = None, stream: TextIO | None = None):
        self.stream = stream or sys.stdout
        self.bar = self.stream.isatty() if bar is None else bar
        self._plan: Plan | None = None
        self._epochs_left = 0.0
        self._timed = 0.0
        self._seconds = 0.0
        self._since = 0.0
        self._label = ''
        self._run: RunDir | None = None

    def say(self, line: str) -> None:
        if dist.get_global_rank() == 0:
            print(line, file=self.stream, flush=True)

    # -- the plan -------------------------------------------------------------------------------------------------

    def start(self, plan: Plan) -> None:
        self._plan = plan
        self._epochs_left = sum(run.config.epochs or 0 for run in plan.runs)
        runs = len(plan.runs)
        self.say(f'{plan.name}: {runs} run{"s" if runs > 1 else ""} in {plan.folder}')

    def finished_before(self, number: int, run: RunDir) -> None:
        lines = run.metrics()
        self._epochs_left -= self._length(number)
        self.say(f'{self._count(number)} {run.path.name}: finished before, not trained again{_reached(lines)}')

    def begin_run(self, number: int, planned: PlannedRun, goes_on: WayOn) -> None:
        assert self._plan is not None
        self._label = f'{self._count(number)} {planned.name}'
        self._run = RunDir(planned.folder)
        taught = f', taught by {", ".join(planned.teachers)}' if planned.teachers else ''
        for kind, how in _HOW.items():
            if used := planned.used(kind):
                taught += f', {how} {", ".join(used)}'
        config = planned.config
        self.say(f'{self._label}: {config.model.name}, {config.max_duration}, seed {config.seed}{taught}')
        checkpoint = goes_on.checkpoint
        named = re.match(r'ep(\d+)-ba(\d+)-', checkpoint.name) if checkpoint else None
        if goes_on.note is not None:
            self.say(f'{self._label}: {goes_on.note}')
        if named:
            self._epochs_left -= int(named[1])
            self.say(f'{self._label}: continues from its checkpoint after epoch {named[1]}, batch {named[2]}')
        self._since = time.perf_counter()

    def end_run(self, number: int, run: RunDir) -> None:
        lines = run.metrics()
        seconds = lines[-1].get('seconds_train_total') if lines else None
        took = '' if seconds is None else f', {duration_text(seconds)} of training'
        left = self._left()
        self.say(f'{self._count(number)} {run.path.name}: done{_reached(lines)}{took}{left}')

    def _count(self, number: int) -> str:
        return f'[{number + 1}/{len(self._plan.runs)}]' if self._plan else ''

    def _length(self, number: int) -> float:
        return (self._plan.runs[number].config.epochs or 0) if self._plan else 0

    # -- a run ----------------------------------------------------------------------------------------------------

    def fit_start(self, state: State, logger: Logger) -> None:
        for algorithm in state.algorithms:
            for teacher in getattr(algorithm, 'teachers', []):
                if getattr(teacher, 'chosen', None):
                    self.say(f'{self._label}: teacher {teacher.name} is {teacher.chosen}')

    def epoch_start(self, state: State, logger: Logger) -> None:
        self._since = time.perf_counter()

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        # After Measures, which has written this epoch's line by now.
        self._seconds += time.perf_counter() - self._since
        self._timed += 1
        self._epochs_left -= 1
        if dist.get_global_rank() != 0 or self._run is None or self.bar:
            return
        lines = self._run.metrics()
        if not lines:
            return
        line = lines[-1]
        shown = [f'epoch {line["epoch"]}']
        for key, name in (('train_accuracy_running', 'train'), ('val_accuracy', 'val'), ('test_accuracy', 'test')):
            if line.get(key) is not None:
                shown.append(f'{name} {100 * line[key]:.1f} %')
        shown.append(f'loss {line["loss_total"]:.3f}')
        if line.get('images_per_second'):
            shown.append(f'{line["images_per_second"]:.0f} img/s')
        self.say(f'{self._label}: ' + ', '.join(shown) + self._left())

    def _left(self) -> str:
        if not self._timed or self._epochs_left <= 0:
            return ''
        return f', about {duration_text(self._epochs_left * self._seconds / self._timed)} left in all'


def duration_text(seconds: float) -> str:
    """``42 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


def _reached(lines: list[dict]) -> str:
    if not lines or lines[-1].get('test_accuracy') is None:
        return ''
    return f', test accuracy {100 * lines[-1]["test_accuracy"]:.1f} % after epoch {lines[-1]["epoch"]}'
