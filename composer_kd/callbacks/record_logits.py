"""Core RecordLogits class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import Callback, State, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.archive.archive import Archive
from composer_kd.archive.parts import clipped, merge_logits, read_parts, remove_parts, write_logits
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.samples import Samples
from composer_kd.callbacks.recorder import begin_recording, refuse_beside, rows_of
from composer_kd.core.errors import UserError
from composer_kd.data.sampler import TrainSampler
from composer_kd.models.batch import keys_of, logits_of
from composer_kd.models.classifier import FirstPass
from composer_kd.models.composer_compat import CHANGE_IMAGES
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.teachers.record import precision_of

__all__ = ['RecordLogits']

# Rows that a rank keeps in memory before they become a part.
_CHUNK = 16_384

# Algorithms of Composer's that change an image beyond what its key says.


class RecordLogits(Callback):
    """Record the logits of a training's last epochs, as a teacher for later runs that costs nothing.

    The last ``views`` epochs show the views 0, 1, ... of the augmentation, those that a student with ``data.views``
    sees, and what the model answers while it trains is kept: no forward pass is made. The price is that it is the
    answer of a model in train mode whose weights still move, and that the samples which an epoch of whole batches
    leaves out stay unseen in that view (``seen`` in the archive's manifest counts those that did not).
    ``composer-kd record`` records the trained model's answers to every sample instead, with a forward pass each.

    The views of the last epochs are the only thing that changes in the training. Several ranks make one table; a run
    that is resumed inside an epoch ends with the table of one that was not interrupted.

    Args:
        run_dir: The run directory, which need not exist. One of a YAML's runs, or any folder for a Trainer of your own.
        views: How many epochs, and views, are recorded.
        top_k: How many logits of each sample are kept beside one level for all others; ``None`` keeps all.
            Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import RecordLogits
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='4ep',
                callbacks=[RecordLogits('runs/mine', views=2)],
            )
            trainer.fit()
    """

    def __init__(self, run_dir: str | Path | RunDir, views: int, top_k: int | None = None):
        for name, value in (('views', views), ('top_k', top_k)):
            if value is not None and value < 1:
                raise UserError(f'{type(self).__name__}: {name} is a whole number from 1 on, got {value}')
        self.archive = Archive(run_dir)
        self.views = views
        self.top_k = top_k
        self._first_epoch = 0
        self._samples = Samples.none()
        self._metadata: dict[str, Any] = {}
        self._passes = FirstPass[tuple[Tensor, Tensor]]()
        self._begin_epoch(0)

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._recorded: list[Tensor] = []  # ids that are in parts, of this rank
        self._before: Tensor | None = None  # ids that a checkpoint says were recorded, of all ranks

    @property
    def _view(self) -> int | None:
        """The view that the epoch under way shows, if it is recorded."""
        return self._epoch - self._first_epoch if self._epoch >= self._first_epoch else None

    # -- before training ------------------------------------------------------------------------------------------

    def fit_start(self, state: State, logger: Logger) -> None:
        owner = type(self).__name__
        refuse_beside(
            state,
            CHANGE_IMAGES,
            owner,
            'logits belong to an image and its view, and it changes the images further',
        )
        sampler = self._closing_sampler(state)
        self._samples = begin_recording(self.archive, state, owner)
        dataset: Any = sampler.samples
        if self.top_k is not None and self.top_k > dataset.num_classes:
            raise UserError(f'{owner}: top_k is {self.top_k}, and there are {dataset.num_classes} classes')
        assert state.max_duration is not None
        self._first_epoch = int(state.max_duration.value) - self.views
        sampler.final_views = (self._first_epoch, self.views)
        manifest = self.archive.manifest()
        self._metadata = {
            'augmentation': manifest.augmentation,
            'classes': manifest.data.num_classes,
            'top_k': self.top_k,
            'precision': precision_of(state),
            'weights': None,
            'source': 'training',
        }
        if self._epoch != int(state.timestamp.epoch):
            self._begin_epoch(int(state.timestamp.epoch))
        on_rank_zero(self._forget_later)

    def _closing_sampler(self, state: State) -> TrainSampler:
        owner = type(self).__name__
        sampler: Any = getattr(state.train_dataloader, 'sampler', None)
        if not isinstance(sampler, TrainSampler):
            raise UserError(
                f'{owner}: the order and the views of the training data are not ours to choose; use data out of shards '
                f'(composer-kd convert, composer_kd.data.open_data)'
            )
        if state.max_duration is None or state.max_duration.unit != TimeUnit.EPOCH:
            raise UserError(f"{owner}: max_duration must be in epochs, as '12ep': the last ones are recorded")
        if state.max_duration.value < self.views:
            raise UserError(
                f'{owner}: views is {self.views}, and the training has {state.max_duration.value} epochs; lower it'
            )
        kept = sampler.samples.views
        if kept is not None and not kept == self.views == 1:
            raise UserError(
                f'{owner}: data.views is {kept}; recording while training needs fresh views every epoch (data.views: '
                f'null): use composer-kd record instead'
            )
        return sampler

    def _forget_later(self) -> None:
        """Keep what was recorded before the checkpoint that the training goes on from, and nothing else."""
        view, finished = self._view, self._epoch - self._first_epoch
        earlier = None if view is None or self._before is None else self._rows_before(view, self._before.numpy())
        if view is not None and earlier is not None:
            samples, columns = earlier
            self.archive.put(
                'logits', view, samples, columns, self._metadata_of(view), counts=_no_cost(columns), merge=False
            )
        record = self.archive.manifest().archive
        tables = {} if record is None else {number: table.model_dump() for number, table in record.logits.items()}

        def stays(number: int) -> bool:
            of_this_training = tables[number].get('epoch') == self._first_epoch + number
            return of_this_training and (number < finished or (number == view and earlier is not None))

        self.archive.drop('logits', stays)
        remove_parts(self.archive, 'logits')

    def _rows_before(self, view: int, ids: NDArray[np.int64]) -> tuple[Samples, dict[str, Tensor]] | None:
        """What parts and table hold of the samples that a checkpoint calls recorded; later rows are of no training."""
        found = []
        if parts := read_parts(self.archive, 'logits', view, self._metadata_of(view)):
            samples, columns = parts
            columns.pop('seconds')
            found.append((samples, columns))
        record = self.archive.manifest().archive
        if record is not None and view in record.logits:
            table = self.archive.table('logits', view)
            seen = table['seen'] != 0
            samples = self.archive.samples().take(np.flatnonzero(seen.numpy()))
            found.append((samples, {name: column[seen] for name, column in table.columns.items() if name != 'seen'}))
        kept = []
        for samples, columns in found:
            wanted = np.isin(samples.ids, ids)
            kept.append((samples.take(wanted), {k: column[torch.from_numpy(wanted)] for k, column in columns.items()}))
            ids = np.setdiff1d(ids, samples.ids)
        if len(ids):
            warnings.warn(
                f'{self.archive.run.path}: {len(ids):,} samples that the checkpoint calls recorded are not there; they '
                f'stay unseen in view {view}',
                stacklevel=2,
            )
        if not kept:
            return None
        columns = {name: torch.cat([part[name] for _, part in kept]) for name in kept[0][1]}
        samples = [part for part, _ in kept]
        return (samples[0] if len(samples) == 1 else samples[0].extended(samples[1])), columns

    def _metadata_of(self, view: int) -> dict[str, Any]:
        return {**self._metadata, 'epoch': self._first_epoch + view}

    # -- a step ---------------------------------------------------------------------------------------------------

    def before_train_batch(self, state: State, logger: Logger) -> None:
        self._passes.start()

    def after_forward(self, state: State, logger: Logger) -> None:
        if self._view is None:
            return
        keys = keys_of(state.batch)
        # A copy: what a CUDA graph answers (compile: reduce-overhead) is overwritten by the next step's answer.
        logits = logits_of(state.outputs, 'the student').detach().clone()
        if keys is None or len(keys) != len(logits):
            raise UserError(f'{type(self).__name__}: the batches do not bring a key for each sample')
        self._passes.add((keys, logits))

    def after_train_batch(self, state: State, logger: Logger) -> None:
        self._passes.end()

    def batch_end(self, state: State, logger: Logger) -> None:
        # Kept as they are: encoding, copying and writing happen once in many steps.
        self._pending += self._passes.take()
        if sum(len(logits) for _, logits in self._pending) >= _CHUNK:
            self._write_part()

    def _write_part(self) -> None:
        view = self._view
        if not self._pending or view is None:
            return
        keys, logits = (torch.cat(column).cpu() for column in zip(*self._pending, strict=True))
        self._pending = []
        if not bool((keys[:, 1] == view).all()):
            raise UserError(
                f'{type(self).__name__}: epoch {self._epoch} shows other views than {view}; leave out whatever else '
                f'decides the order of the training data'
            )
        samples = self._samples.take(rows_of(keys[:, 0].numpy(), self._samples, type(self).__name__))
        write_logits(self.archive, view, samples, logits, self._metadata_of(view))
        self._recorded.append(keys[:, 0])

    # -- an epoch -------------------------------------------------------------------------------------------------

    def epoch_end(self, state: State, logger: Logger) -> None:
        view = self._view
        if view is not None:
            self._write_part()
            dist.barrier()
            on_rank_zero(lambda: merge_logits(self.archive, view, self._metadata_of(view)))
        self._begin_epoch(int(state.timestamp.epoch))

    def fit_end(self, state: State, logger: Logger) -> None:
        # The loader may serve another training.
        self._closing_sampler(state).final_views = None

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        # Composer calls this on every rank, and writes what rank 0 returns. The rows themselves go to the disk here.
        self._write_part()
        mine = torch.cat([torch.zeros(0, dtype=torch.int64), *self._recorded])
        every = [mine] if dist.get_world_size() == 1 else dist.all_gather_object(mine)
        before = [] if self._before is None else [self._before]
        return {'epoch': self._epoch, 'ids': torch.cat([*before, *every])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin_epoch(int(state['epoch']))
        self._before = state['ids']


def _no_cost(columns: Mapping[str, Tensor]) -> dict[str, float]:
    return {'clipped': clipped(columns), 'images': 0, 'seconds': 0.0, 'multiply_adds': 0}
