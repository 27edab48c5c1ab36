"""Core RecordLosses class."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from numpy.typing import NDArray

from composer_kd.archive.archive import Archive
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.samples import Samples
from composer_kd.callbacks.recorder import begin_recording, refuse_beside, rows_of
from composer_kd.models.composer_compat import MIX_IMAGES
from composer_kd.models.sample_losses import SampleLosses, StepLosses
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['RecordLosses']


class RecordLosses(Callback):
    """Record the loss of every sample in every epoch, for curricula and for whoever studies them.

    The losses are those of the training itself: of the view and at the weights of the step that met the sample, without
    a forward pass of their own. One table an epoch is written at its end, ``archive/loss/epNNNN.safetensors``, with
    ``loss`` (float32), ``correct`` (whether the label had the highest logit) and ``seen``; NNNN is the epoch, counted
    from 0. Samples that an epoch leaves out (the rest after whole batches, those that a curriculum holds back) are not
    seen in it. The training is not changed: its weights are bit for bit those without this callback.

    Several ranks and microbatches make one table. A run that is resumed inside an epoch ends with the tables of one
    that was not interrupted.

    Args:
        run_dir: The run directory, which need not exist. One of a YAML's runs, or any folder for a Trainer of your own.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import Archive, RecordLosses
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='2ep',
                callbacks=[RecordLosses('runs/mine')],
            )
            trainer.fit()
            first = Archive('runs/mine').table('loss', 0)
            print(first['loss'][first['seen'].bool()].mean())
    """

    def __init__(self, run_dir: str | Path | RunDir):
        self.archive = Archive(run_dir)
        self._losses = SampleLosses(type(self).__name__)
        self._samples = Samples.none()
        self._replaces = False  # Whether the losses of an earlier training are still there.
        self._begin_epoch(0)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._before: _Entries | None = None  # what a checkpoint told of this epoch
        self._steps: list[tuple[int, StepLosses]] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        owner = type(self).__name__
        refuse_beside(state, MIX_IMAGES, owner, 'the losses of its mixed images are those of no sample')
        self._samples = begin_recording(self.archive, state, owner)
        epoch = int(state.timestamp.epoch)
        if self._epoch != epoch:
            self._begin_epoch(epoch)
        on_rank_zero(lambda: self._forget_from(epoch))

    def _forget_from(self, epoch: int) -> None:
        """Drop what was recorded after the checkpoint that the training goes on from."""
        record = self.archive.manifest().archive
        later = [] if record is None else [number for number in record.loss if number >= epoch]
        anew = epoch == 0 and not self._steps and self._before is None
        self._replaces = bool(later) and anew
        if self._replaces:
            warnings.warn(
                f'{self.archive.run.path}: the losses of an earlier training ({len(later)} epochs) are replaced',
                stacklevel=2,
            )
            return  # When there is something to replace them with.
        self.archive.drop('loss', lambda number: number < epoch)

    # -- a step ---------------------------------------------------------------------------------------------------

    def before_train_batch(self, state: State, logger: Logger) -> None:
        self._losses.start_pass()

    def before_forward(self, state: State, logger: Logger) -> None:
        self._losses.read_labels(state.batch)

    def after_forward(self, state: State, logger: Logger) -> None:
        self._losses.add(state.model, state.outputs, state.batch)

    def after_train_batch(self, state: State, logger: Logger) -> None:
        self._losses.end_pass()

    def batch_end(self, state: State, logger: Logger) -> None:
        # Kept as they are until the epoch's end: nothing is looked up, copied or read back in a step.
        self._steps.append((int(state.timestamp.batch), self._losses.take()))

    # -- an epoch -------------------------------------------------------------------------------------------------

    def epoch_end(self, state: State, logger: Logger) -> None:
        self._write()
        self._begin_epoch(int(state.timestamp.epoch))

    def fit_end(self, state: State, logger: Logger) -> None:
        # A duration in batches may end inside an epoch: what was seen of it is kept, and grows in a later fit.
        if self._steps or self._before is not None:
            self._write()

    def _write(self) -> None:
        entries = self._everyones()
        if entries is None:
            return
        rows = rows_of(entries.ids, self._samples, type(self).__name__)
        columns = {'loss': torch.from_numpy(entries.loss), 'correct': torch.from_numpy(entries.correct)}
        samples = self._samples.take(rows)
        on_rank_zero(lambda: self._put(samples, columns))

    def _put(self, samples: Samples, columns: dict[str, torch.Tensor]) -> None:
        if self._replaces:
            self.archive.drop('loss', lambda number: False)
            self._replaces = False
        self.archive.put('loss', self._epoch, samples, columns, merge=False)

    def _everyones(self) -> _Entries | None:
        """What all ranks recorded of the epoch so far, each sample once: as its first step, lowest rank, met it."""
        parts = [] if self._before is None or dist.get_global_rank() else [self._before]
        if self._steps:
            keys, loss, correct = (torch.cat(column).cpu() for column in zip(*(s for _, s in self._steps), strict=True))
            batches = [np.full(len(step.loss), number, np.int64) for number, step in self._steps]
            parts.append(_Entries(keys[:, 0].numpy(), loss.numpy(), correct.numpy(), np.concatenate(batches)))
        if dist.get_world_size() > 1:
            parts = [part for of_rank in dist.all_gather_object(parts) for part in of_rank]
        if not parts:
            return None
        every = _Entries(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        in_order = np.argsort(every.batch, kind='stable')
        _, first = np.unique(every.ids[in_order], return_index=True)
        return _Entries(*(column[in_order[first]] for column in every))

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        # Composer calls this on every rank, and writes what rank 0 returns.
        entries = self._everyones()
        columns = {} if entries is None else {k: torch.from_numpy(v) for k, v in entries._asdict().items()}
        return {'epoch': self._epoch, **columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin_epoch(int(state['epoch']))
        if 'ids' in state:
            self._before = _Entries(*(state[name].numpy() for name in _Entries._fields))


class _Entries(NamedTuple):
    """One row for each sample that was met, on the host."""

    ids: NDArray[Any]
    loss: NDArray[Any]
    correct: NDArray[Any]
    batch: NDArray[Any]
