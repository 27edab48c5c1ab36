"""Core RecordPredictions class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from composer.core import Callback, State, Timestamp
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_kd.archive.predictions import Predictions, predictions_file, remove_predictions
from composer_kd.core.errors import UserError, nearest
from composer_kd.functional.top_k import to_half
from composer_kd.models.batch import keys_of, labels_of, logits_of
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['RecordPredictions']


class RecordPredictions(Callback):
    """Keep what the last evaluation of a training said of every sample, for whoever asks more of it than its accuracy.

    ``predictions/SPLIT.safetensors`` holds ``logits`` (float16 ``[N, C]``, clipped to its range), ``labels`` and
    ``ids`` (int64 ``[N]``), and in its header the split, the epoch, the batch and the data's fingerprint. It comes out
    of the evaluator's own pass: no forward pass is made. It is written at the end of an evaluation at the end of the
    training, one that an early stop ended included; what an earlier training left there is removed when one starts.

    Rows are in the order of their ids, each sample once, whatever the number of ranks. Batches without keys
    (``(x, y)``) are kept on one rank alone, in the order of the evaluator, and their ids count from 0.

    Args:
        folder: The run directory, which need not exist. One of a YAML's runs, or any folder for a Trainer of your own.
        splits: The labels of the evaluators whose answers are kept; ``None`` keeps those of all. A DataLoader given as
            ``eval_dataloader`` is called ``eval``. Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import RecordPredictions
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                eval_dataloader=eval_dataloader,
                max_duration='2ep',
                callbacks=[RecordPredictions('runs/mine')],
            )
            trainer.fit()
    """

    def __init__(self, folder: str | Path, splits: Sequence[str] | None = None):
        self.folder = Path(folder)
        self.splits = None if splits is None else tuple(splits)
        # By split, of the evaluation under way; None outside of a training's evaluations.
        self._answers: dict[str, _Answers] | None = None

    def fit_start(self, state: State, logger: Logger) -> None:
        self._check_splits([evaluator.label for evaluator in state.evaluators])
        # The weights will change: whatever is there is of others.
        on_rank_zero(lambda: remove_predictions(self.folder))

    def _check_splits(self, labels: list[str]) -> None:
        owner = type(self).__name__
        for split in labels if self.splits is None else self.splits:
            if split not in labels:
                raise UserError(f'{owner}: {split!r} is no evaluator of this Trainer; {nearest(split, labels)}')
            if Path(split).name != split:
                raise UserError(f'{owner}: the evaluator {split!r} names a file; give it a label without slashes')

    # -- an evaluation --------------------------------------------------------------------------------------------
    # All of them are kept until they end: whether one was the last is known then, for it may have stopped the training.

    def eval_before_all(self, state: State, logger: Logger) -> None:
        self._answers = {}

    def eval_start(self, state: State, logger: Logger) -> None:
        split = state.dataloader_label
        if self._answers is not None and split is not None and (self.splits is None or split in self.splits):
            fingerprint = getattr(getattr(state.dataloader, 'dataset', None), 'fingerprint', None)
            self._answers[split] = _Answers(fingerprint)

    def eval_batch_start(self, state: State, logger: Logger) -> None:
        if answers := self._current(state):
            answers.begin_batch(labels_of(state.batch))

    def eval_after_forward(self, state: State, logger: Logger) -> None:
        answers = self._current(state)
        if answers is None:
            return
        owner = type(self).__name__
        logits, labels, keys = logits_of(state.outputs, owner), labels_of(state.batch), keys_of(state.batch)
        if labels is None or len(labels) != len(logits):
            raise UserError(f'{owner}: the batches of {state.dataloader_label!r} do not bring a class for each sample')
        half, _ = to_half(logits.detach().float())
        answers.batch.append(_Rows(half.cpu(), labels.cpu().long(), None if keys is None else keys[:, 0].cpu()))

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        if answers := self._current(state):
            answers.end_batch()

    def eval_after_all(self, state: State, logger: Logger) -> None:
        answers, self._answers = self._answers or {}, None
        trained = _trained(state)
        if state.max_duration is not None and trained >= state.max_duration:
            for split, of_split in answers.items():
                metadata = {
                    'split': split,
                    'epoch': int(trained.epoch),
                    'batch': int(trained.batch),
                    'fingerprint': of_split.fingerprint,
                }
                self._keep(of_split, metadata)

    def _current(self, state: State) -> _Answers | None:
        return (self._answers or {}).get(state.dataloader_label or '')

    def _keep(self, answers: _Answers, metadata: dict[str, Any]) -> None:
        ranks = dist.get_world_size()
        parts = answers.rows if ranks == 1 else [rows for of in dist.all_gather_object(answers.rows) for rows in of]
        if not parts:
            return
        rows = _joined(parts)
        if rows.ids is not None:
            rows = _by_id(rows)
        elif ranks > 1:
            warnings.warn(
                f'{type(self).__name__}: no predictions of {metadata["split"]!r} are kept: its batches bring no keys, '
                f'and with {ranks} ranks it cannot be told which rows are padding; evaluate on one',
                stacklevel=2,
            )
            return
        ids = torch.arange(len(rows.labels)) if rows.ids is None else rows.ids
        predictions = Predictions(rows.logits, rows.labels, ids, metadata)
        on_rank_zero(lambda: predictions.write(self.folder / predictions_file(metadata['split'])))


class _Rows(NamedTuple):
    """Some samples of a split, on the host; ids are None where batches have no keys."""

    logits: Tensor
    labels: Tensor
    ids: Tensor | None


class _Answers:
    """What the model says to a split on this rank.

    Attributes:
        fingerprint: Of the split's data, where it has one.
        rows: Of the batches that have come to their end.
        batch: Of the batch under way, microbatch by microbatch.
    """

    def __init__(self, fingerprint: str | None):
        self.fingerprint = fingerprint
        self.rows: list[_Rows] = []
        self.batch: list[_Rows] = []
        self._samples = 0

    def begin_batch(self, labels: Tensor | None) -> None:
        self.batch = []
        self._samples = 0 if labels is None else len(labels)

    def end_batch(self) -> None:
        # After running out of memory the batch passes again, in smaller parts: what counts is the pass that ended.
        if self.batch:
            logits, labels, ids = _joined(self.batch)
            whole = slice(-self._samples, None)
            self.rows.append(_Rows(logits[whole], labels[whole], None if ids is None else ids[whole]))


def _joined(parts: list[_Rows]) -> _Rows:
    logits, labels, ids = ([getattr(rows, name) for rows in parts] for name in _Rows._fields)
    return _Rows(torch.cat(logits), torch.cat(labels), None if any(part is None for part in ids) else torch.cat(ids))


def _by_id(rows: _Rows) -> _Rows:
    """In the order of the ids, each sample once: samplers repeat some, so that ranks get equally many."""
    assert rows.ids is not None
    ids, place = torch.sort(rows.ids, stable=True)
    place = place[torch.cat([torch.ones(1, dtype=torch.bool), ids[1:] != ids[:-1]])]
    return _Rows(rows.logits[place], rows.labels[place], rows.ids[place])


def _trained(state: State) -> Timestamp:
    """How far the training is: an evaluation after an epoch's last batch may come before Composer counts the epoch."""
    now, batches = state.timestamp, state.dataloader_len
    return now.to_next_epoch() if batches is not None and now.batch_in_epoch >= batches else now
