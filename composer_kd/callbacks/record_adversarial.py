"""Core RecordAdversarial class."""

from __future__ import annotations

import warnings
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger

from composer_kd.algorithms.roles import MakesExamples
from composer_kd.archive.archive import Archive
from composer_kd.archive.run_dir import RunDir
from composer_kd.callbacks.recorder import begin_recording
from composer_kd.core.errors import UserError
from composer_kd.models import plain, weights_hash
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['RecordAdversarial']

_SET = 0


class RecordAdversarial(Callback):
    """Leave the adversarial examples of a training in its archive, for later runs that replay them or go on from them.

    What :class:`.AdversarialRecycling` keeps, one delta a sample, is written at the end of every epoch in the place of
    what was there: ``archive/adversarial/set0000.safetensors``, with ``delta`` (int8, in the coordinates of the stored
    image) and ``seen``. The manifest names the attack, its epsilon and norm, the scale of the pixels, how far the
    training was, and the hash of its weights then; an example is at most as much older as it is long ago that its
    sample was attacked. A kill while a table is written leaves the one before.

    A run that goes on from a checkpoint goes on with the examples in it, and so does the archive.

    Args:
        run_dir: The run directory, which need not exist. One of a YAML's runs, or any folder for a Trainer of your own.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import AdversarialRecycling, RecordAdversarial
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='2ep',
                algorithms=[AdversarialRecycling()],
                callbacks=[RecordAdversarial('runs/mine')],
            )
            trainer.fit()
    """

    def __init__(self, run_dir: str | Path | RunDir):
        self.archive = Archive(run_dir)
        self._algorithm: MakesExamples | None = None
        self._written = -1  # After how many batches.

    def init(self, state: State, logger: Logger) -> None:
        owner = type(self).__name__
        made = [one for one in state.algorithms if isinstance(one, MakesExamples) and one.makes_examples]
        if not made:
            raise UserError(
                f'{owner}: nothing in this Trainer makes adversarial examples; give it AdversarialRecycling in mode '
                f"'recycle' or 'fresh', or leave {owner} out"
            )
        self._algorithm = made[0]
        self._algorithm.keep_examples()

    def fit_start(self, state: State, logger: Logger) -> None:
        begin_recording(self.archive, state, type(self).__name__)
        record = on_rank_zero(lambda: self.archive.manifest().archive)
        if record is None or not record.adversarial:
            return
        if int(state.timestamp.batch) > 0:
            # What was recorded after the checkpoint is of weights that this training does not come from.
            if not len(self._examples.kept_examples()[0]):
                on_rank_zero(lambda: self.archive.drop('adversarial', lambda number: False))
            self._write(state)
        else:
            warnings.warn(
                f'{self.archive.run.path}: the adversarial examples of an earlier training are replaced', stacklevel=2
            )

    def epoch_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        # A duration in batches may end inside an epoch.
        if self._written != int(state.timestamp.batch):
            self._write(state)

    @property
    def _examples(self) -> MakesExamples:
        assert self._algorithm is not None, 'INIT comes first'
        return self._algorithm

    def _write(self, state: State) -> None:
        with self._examples.between_steps():
            self._examples.gather_examples()
            on_rank_zero(lambda: self._put(state))
        self._written = int(state.timestamp.batch)

    def _put(self, state: State) -> None:
        samples, deltas, attack = self._examples.kept_examples()
        metadata = {
            **attack,
            'weights': weights_hash(plain(state.model)),
            'batch': int(state.timestamp.batch),
        }
        self.archive.put('adversarial', _SET, samples, {'delta': deltas}, metadata, merge=False)
