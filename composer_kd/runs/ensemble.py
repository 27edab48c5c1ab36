"""``composer-kd ensemble``: what finished runs answer together, and of how many samples how many of them are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.archive import Archive
from composer_kd.archive.predictions import Predictions, predictions_of
from composer_kd.core.errors import UserError
from composer_kd.functional import average_logits, average_probabilities, expected_calibration_error, right_counts
from composer_kd.functional.top_k import to_half
from composer_kd.models.finished_run import FinishedRun
from composer_kd.report.render.text import MISSING, NATS, PERCENT, Table
from composer_kd.runs.predictions import finite
from composer_kd.runs.process import keep_freed_memory
from composer_kd.runs.record import open_run_data
from composer_kd.storage.atomic import atomic_write
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import BATCH_SIZE, Inference, LogitRecorder

__all__ = ['Ensemble', 'Member', 'Quality', 'measure_ensemble', 'show_ensemble']


@dataclass(frozen=True)
class Quality:
    """How good some logits are; ``None`` is what is no number, because they are none."""

    accuracy: float
    cross_entropy: float | None
    calibration_error: float | None

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Quality:
        logits = logits.float()
        return cls(
            accuracy=float((logits.argmax(dim=1) == labels).double().mean()),
            cross_entropy=finite(F.cross_entropy(logits, labels)),
            calibration_error=finite(expected_calibration_error(logits, labels)),
        )

    def cells(self) -> tuple[str, str, str]:
        calibration = MISSING if self.calibration_error is None else PERCENT.text(self.calibration_error)
        entropy = MISSING if self.cross_entropy is None else NATS.text(self.cross_entropy)
        return PERCENT.text(self.accuracy), entropy, calibration


@dataclass(frozen=True)
class Member:
    """One run of an ensemble: its directory, the hash of its weights, and how good it is alone."""

    run: str
    weights: str
    quality: Quality


@dataclass(frozen=True)
class Ensemble:
    """K runs and their answers to the same samples.

    Attributes:
        split: Whose samples.
        samples: How many.
        members: In the order that was given.
        logits: Of the first 1, 2, ..., K members together, their logits averaged.
        probabilities: The same with their probabilities averaged.
        right: Of how many samples 0, 1, ..., K members are right.
    """

    split: str
    samples: int
    members: tuple[Member, ...]
    logits: tuple[Quality, ...]
    probabilities: tuple[Quality, ...]
    right: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs: accuracies are fractions, cross-entropies nats."""
        together = zip(self.logits, self.probabilities, strict=True)
        return {
            'split': self.split,
            'samples': self.samples,
            'members': [{'run': one.run, 'weights': one.weights, **asdict(one.quality)} for one in self.members],
            'first': [
                {'k': k, 'logits': asdict(logits), 'probabilities': asdict(probabilities)}
                for k, (logits, probabilities) in enumerate(together, 1)
            ],
            'right': list(self.right),
            'at_least_one': 1 - self.right[0] / self.samples,
        }

    def tables(self) -> list[Table]:
        quality = ('accuracy, %', 'cross-entropy', 'calibration error, %')
        names = _short([one.run for one in self.members])
        members = [
            (str(k), name, *one.quality.cells())
            for k, (name, one) in enumerate(zip(names, self.members, strict=True), 1)
        ]
        together = [
            (str(k), how, *found.cells())
            for k, pair in enumerate(zip(self.logits, self.probabilities, strict=True), 1)
            for how, found in zip(('logits', 'probabilities'), pair, strict=True)
        ]
        counts = [*enumerate(self.right), ('at least one', self.samples - self.right[0])]
        right = [(str(number), f'{count:,}', PERCENT.text(count / self.samples)) for number, count in counts]
        return [
            Table(
                f'Each alone, on {self.samples:,} {self.split} samples',
                ('k', 'run', *quality),
                tuple(members),
                labels=2,
            ),
            Table('The first k together', ('k', 'average of', *quality), tuple(together), labels=2),
            Table('How many of them are right', ('right', 'samples', '%'), tuple(right)),
        ]


def _short(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    parts = [Path(path).parts for path in paths]
    tails = (['/'.join(one[-length:]) for one in parts] for length in range(1, max(map(len, parts))))
    return next((tail for tail in tails if len(set(tail)) == len(tail)), list(paths))


def show_ensemble(
    paths: Sequence[str | Path],
    split: str = 'test',
    *,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
    file: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Say what the runs at ``paths`` answer together, and write it to ``file`` as JSON where one is named."""
    found = measure_ensemble(paths, split, batch_size=batch_size, device=device, say=say)
    if file is not None:
        document = {'format': 'composer_kd.ensemble', 'version': 1, **found.as_json()}
        atomic_write(file, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + '\n')
    say('\n\n'.join(table.text() for table in found.tables()))


def measure_ensemble(
    paths: Sequence[str | Path],
    split: str = 'test',
    *,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
    say: Callable[[str], None] = print,
) -> Ensemble:
    """Average what finished runs answer to the same samples: from their kept predictions, else their models are asked.

    Args:
        paths: Their directories: of different seeds, architectures or training data, but of one test set.
        split: ``'test'``, ``'val'`` or ``'train'``: the training data as they are stored.
        batch_size: Images in a forward pass, where a model is asked.
        device: ``auto``, ``cpu`` or ``gpu``, likewise.
        say: Takes lines for the person who waits.
    """
    if batch_size < 1:
        raise UserError(f'batch_size: a whole number from 1 on, got {batch_size}')
    runs = [FinishedRun.open(path) for path in paths]
    _check_members(runs)
    answers = []
    for run in runs:
        kept = None if split == 'train' else predictions_of(run.directory, split)
        answers.append(kept or _ask(run, split, batch_size, device, say))
        if answers[-1].other_data(answers[0]):
            ours, theirs = (one.metadata['fingerprint'] for one in (answers[-1], answers[0]))
            raise UserError(
                f'{run}: its {split} data ({ours}) are not those of {runs[0]} ({theirs}); an ensemble is of runs that '
                f'are asked about the same images: leave one of them out'
            )
        if not answers[-1].same_samples(answers[0]):
            raise UserError(
                f'{run}: its {split} samples are not those of {runs[0]} (data.subset, data.val_fraction); '
                f'runs of one data set have the same test samples: use --split test'
            )
    logits, labels = torch.stack([one.logits for one in answers]), answers[0].labels
    firsts = range(1, len(runs) + 1)
    return Ensemble(
        split=split,
        samples=len(labels),
        members=tuple(
            Member(str(run), run.weights_hash, Quality.of(one, labels)) for run, one in zip(runs, logits, strict=True)
        ),
        logits=tuple(Quality.of(average_logits(logits[:k]), labels) for k in firsts),
        probabilities=tuple(Quality.of(average_probabilities(logits[:k]), labels) for k in firsts),
        right=tuple(right_counts(logits, labels).tolist()),
    )


def _check_members(runs: Sequence[FinishedRun]) -> None:
    """The same classes, and no run twice."""
    places = [run.path.resolve() for run in runs]
    for number, run in enumerate(runs):
        if places[number] in places[:number]:
            raise UserError(f'{run}: this run is there twice; name each member of an ensemble once')
        own, first = run.manifest.data.num_classes, runs[0].manifest.data.num_classes
        if own != first:
            raise UserError(
                f'{run}: its classes ({own}) are not those of {runs[0]} ({first}); an ensemble is of runs of one data '
                f'set: leave one of them out'
            )


def _ask(run: FinishedRun, split: str, batch_size: int, device: str, say: Callable[[str], None]) -> Predictions:
    """What a run's model says of a split of its data as it is stored, in the form in which predictions are kept."""
    data = open_run_data(run)
    spec = {'train': data.train, 'val': data.val, 'test': data.test}[split]
    if spec is None:
        raise UserError(f'{run}: it has no validation samples (data.val_fraction: 0); use --split test')
    if data.fingerprint != run.manifest.data.fingerprint:
        raise UserError(
            f'{run}: the data in {run.config["data"]["source"]} is not what it was trained on; put that back to '
            f'ask its model'
        )
    state = Inference.like(run.config, device, run.manifest.data.num_classes)
    if state.device.name == 'cpu':
        keep_freed_memory()
    dataset: Any = spec.dataloader.dataset  # type: ignore[union-attr]
    why = '' if split == 'train' else f', for it kept no predictions of {split}'
    say(f'{run}: its model is asked about {len(dataset):,} {split} samples{why}')
    asked = LogitRecorder(Archive(run.directory), dataset, {}, RunTeacher(run), state, batch_size)
    logits = torch.cat([to_half(part)[0].cpu() for part in asked.logits(-1, np.arange(len(dataset)))])
    metadata = {'split': split, 'fingerprint': dataset.fingerprint}
    return Predictions(logits, torch.from_numpy(dataset.labels), torch.from_numpy(dataset.ids), metadata)
