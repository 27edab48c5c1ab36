"""What a run's predictions say beside its accuracy: is its confidence right, and how faithful is it to its teachers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from composer.core import Algorithm
from torch import Tensor

from composer_kd.algorithms.roles import HasTeachers
from composer_kd.archive.predictions import Predictions, predictions_file, predictions_of, read_predictions
from composer_kd.archive.run_dir import RunDir
from composer_kd.core.errors import UserError
from composer_kd.functional import agreement, expected_calibration_error, kl
from composer_kd.runs.config import RunConfig

__all__ = ['evaluation', 'finite', 'kept_predictions', 'recorded_splits', 'teacher_runs']


def recorded_splits(config: RunConfig) -> tuple[str, ...]:
    """The splits whose predictions a run keeps."""
    if not config.predictions:
        return ()
    return ('val', 'test') if config.data.val_fraction > 0 else ('test',)


def kept_predictions(
    run: RunDir, splits: Iterable[str], batch: int, say: Callable[[str], None]
) -> dict[str, Predictions]:
    """What the last evaluation of a training that has ended left, by split; what is missing is said.

    Args:
        run: Its directory; the manifest has not been written yet.
        splits: Which should be there.
        batch: How many batches were trained: what another number led to is no last evaluation.
        say: Takes lines for the person who waits.
    """
    found, missing = {}, []
    for split in splits:
        path = run.path / predictions_file(split)
        try:
            predictions = read_predictions(path) if path.is_file() else None
        except UserError:
            predictions = None  # Cut off since it was written; the manifest will not name it.
        if predictions is not None and predictions.metadata.get('batch') == batch:
            found[split] = predictions
        else:
            missing.append(split)
    if missing:
        say(
            f'{run}: there are no predictions of {" and ".join(missing)}: the training was interrupted before its last '
            f'evaluation, or they were removed since; to have them, remove the run directory and run again'
        )
    return found


def teacher_runs(algorithms: Iterable[Algorithm]) -> dict[str, RunDir]:
    """The run directories among the teachers, by the teachers' names."""
    runs: dict[str, RunDir] = {}
    for algorithm in algorithms:
        for teacher in algorithm.teachers if isinstance(algorithm, HasTeachers) else ():
            if teacher.run is not None:
                runs[teacher.name] = teacher.run
    return runs


def evaluation(
    predictions: Mapping[str, Predictions], teachers: Mapping[str, RunDir], say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """For each split the calibration error, and agreement with each teacher and divergence from it.

    A teacher counts where its own run kept predictions of the same samples, so nothing is computed anew. One whose
    file is damaged is left out, and said: the student is not worse for it.

    Args:
        predictions: The run's own, by split.
        teachers: Run directories by the teachers' names.
        say: Takes lines for the person who waits.
    """
    found = {}
    for split, own in predictions.items():
        logits = own.logits.float()
        agreements, divergences = {}, {}
        for name, run in teachers.items():
            try:
                theirs = predictions_of(run, split)
            except UserError as error:
                say(f'how faithful the student is to {name} is not known: {error}')
                continue
            if theirs is None or not own.same_samples(theirs):
                continue
            target = theirs.logits.float()
            agreements[name] = finite(agreement(logits, target))
            divergences[name] = finite(kl(logits, target, temperature=1.0))
        found[split] = {
            'calibration_error': finite(expected_calibration_error(logits, own.labels)),
            'agreement': agreements,
            'teacher_kl': divergences,
        }
    return found


def finite(value: Tensor) -> float | None:
    """JSON knows no NaN, which logits that are none lead to."""
    number = float(value)
    return number if math.isfinite(number) else None
