"""The results of a scale: one line of JSON for each finished cell, all that tables and pictures are made from."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.retrain.cells import HERE, Cell
from composer_kd.archive import Archive, RunDir
from composer_kd.storage.jsonl import append_line, read_lines
from composer_kd.storage.locks import locked

__all__ = ['Results', 'line_of', 'line_of_failure']

DIGITS = 5
_EPOCH = (
    'epoch', 'samples', 'train_accuracy_running', 'train_accuracy_clean', 'val_accuracy', 'test_accuracy',
    'test_cross_entropy', 'loss_total', 'loss_distill', 'agreement', 'kd_weight', 'seconds_train_total',
    'seconds_teacher_total', 'seconds_eval_total', 'multiply_adds_student_total', 'multiply_adds_teacher_total',
    'multiply_adds_teacher_saved_total', 'images_recorded_total', 'runs_beside',
)  # fmt: skip


class Results:
    """The file ``results/SCALE.jsonl``; several processes may add to it.

    Args:
        scale: Its name.
        folder: Where the file is.
    """

    def __init__(self, scale: str, folder: Path = HERE / 'results'):
        self.file = folder / f'{scale}.jsonl'
        self.overlap_file = folder / f'{scale}.overlap.json'
        self._read: tuple[tuple[int, int], list[dict[str, Any]]] = ((-1, -1), [])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size = self.file.stat().st_size if self.file.exists() else 0
        counted = self.overlap_file.stat().st_mtime_ns if self.overlap_file.exists() else 0
        if self._read[0] != (size, counted):  # The first file only ever grows, the other one is written anew.
            overlaps = self.overlaps()
            lines = [{**line, 'overlap': overlaps.get(line['cell'])} for line in read_lines(self.file)]
            self._read = ((size, counted), lines)
        return iter(self._read[1])

    def by_name(self, alone: bool = False) -> dict[str, dict[str, Any]]:
        return {line['cell']: line for line in self if line.get('alone', False) == alone}

    def overlaps(self) -> dict[str, dict[str, Any]]:
        """What was counted of the runs' answers, by cell; see :mod:`benchmarks.retrain.overlap`."""
        return json.loads(self.overlap_file.read_text()) if self.overlap_file.is_file() else {}

    def accuracy(self, name: str) -> float | None:
        """The validation accuracy that a cell ended with; 0 for one that failed."""
        line = self.by_name().get(name)
        if line is None:
            return None
        return line['epochs'][-1]['val_accuracy'] if line['epochs'] else 0.0

    def add(self, line: Mapping[str, Any]) -> None:
        with locked(self.file.with_suffix('.lock')):
            append_line(self.file, line)


def line_of(cell: Cell, run: RunDir, alone: bool = False) -> dict[str, Any]:
    """What is kept of a finished run; nothing of it is a path of this machine."""
    manifest = run.manifest()
    more: Mapping[str, Any] = manifest.model_extra or {}
    return {
        **_what(cell),
        'alone': alone,
        'config': {key: value for key, value in run.read_config().items() if key != 'loggers'},
        'epochs': [{key: _short(line[key]) for key in _EPOCH if line.get(key) is not None} for line in run.metrics()],
        'parameters': more.get('parameters'),
        'multiply_adds': manifest.multiply_adds,
        'evaluation': {split: record.model_dump(mode='json') for split, record in manifest.evaluation.items()},
        'harvest': _harvest(run),
        'finished_at': more.get('finished_at'),
        'hardware': manifest.hardware,
        'versions': manifest.versions,
        'commit': commit(),
    }


def line_of_failure(cell: Cell, reason: str) -> dict[str, Any]:
    """A run that came to nothing, as one whose rate is too high: a result as well, and not to be tried again."""
    now = datetime.now(timezone.utc).isoformat(timespec='seconds')
    return {**_what(cell), 'alone': False, 'failed': reason, 'epochs': [], 'finished_at': now, 'commit': commit()}


def commit() -> str:
    """Of the checkout that this file is in, with a sign if it is not what is committed."""
    command = ['git', '-C', str(HERE), 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or 'unknown'


def _what(cell: Cell) -> dict[str, Any]:
    facts = ('scenario', 'arm', 'budget', 'number')
    return {
        'cell': cell.name,
        **{name: getattr(cell, name) for name in facts},
        'needs': [need.name for need in cell.needs],
    }


def _harvest(run: RunDir) -> dict[str, Any]:
    """What recording this run's logits cost, for those who look them up; empty where nothing is recorded."""
    archive = Archive(run)
    if not archive.exists:
        return {}
    views = [archive.metadata('logits', view) for view in archive.views]
    return {
        'views': len(views),
        'multiply_adds': sum(facts.get('multiply_adds') or 0 for facts in views),
        'seconds': _short(sum(facts.get('seconds') or 0 for facts in views)),
        'bytes': archive.bytes().get('logits', 0),
    }


def _short(value: Any) -> Any:
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f'{value:.{DIGITS}g}')
