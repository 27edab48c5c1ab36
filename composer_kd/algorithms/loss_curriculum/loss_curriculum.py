"""Core LossCurriculum class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from composer.core import Event, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.algorithms.described import Described, check_mode
from composer_kd.algorithms.distillation.distillation import Distillation
from composer_kd.algorithms.loss_curriculum.current_losses import CurrentLosses, SampleWeights, with_nan, without_nan
from composer_kd.algorithms.loss_curriculum.rules import (
    EpochSelection,
    InfoBatch,
    Paced,
    Rho,
    Rule,
    RuleContext,
    SelectedEpochs,
    check_statistic,
    difficulties,
    ramp,
)
from composer_kd.algorithms.roles import Need, Training, refuse_second
from composer_kd.archive.archive import Archive
from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.core.options import number, one_of
from composer_kd.core.schedule import Progress
from composer_kd.functional.curriculum import PACINGS
from composer_kd.models.classifier import refuse_strict_model
from composer_kd.models.sample_losses import SampleLosses
from composer_kd.storage.distributed import on_rank_zero

__all__ = ['OF_MODE', 'LossCurriculum']

# Algorithms of Composer's that leave no batch in which each sample has its own loss.
_MIXED = 'the loss of a mixed image is that of no sample'
SPOIL_LOSSES = {'MixUp': _MIXED, 'CutMix': _MIXED, 'SelectiveBackprop': 'it drops samples but not their ids'}


class LossCurriculum(Described):
    """Let the losses of samples decide what an epoch trains on, in one of three modes.

    ``'curriculum'``: an earlier run recorded how difficult each sample was. Training begins on the easiest share, and
    the share grows to everything; or every sample is trained on, and its label loss weighted instead.

    ``'infobatch'``: this run's own losses. At the start of each epoch, samples whose last loss is below the mean are
    left out with the probability ``prune``; the label losses of those of them that stay are multiplied by
    ``1 / (1 - prune)``, so that the expected gradient is that of all data. The first epoch and the last part of the
    training are on everything.

    ``'rho'``: own last loss minus the stored one: high where this run has yet to learn what the earlier one could. An
    epoch trains on the share ``keep`` with the highest; the first one on everything.

    What an epoch trains on is decided at its start and does not depend on anything drawn from a generator: resumed runs
    and several ranks agree. Epochs become shorter; Composer's schedulers are shown epochs of the full length, so that
    learning rates follow the epochs (with ``max_duration`` in epochs; durations in batches need no care).

    Logged at the start of every epoch: ``curriculum/fraction`` (the share in use), ``curriculum/samples`` (how many are
    chosen), ``curriculum/unseen`` (how many the archive does not know) and ``curriculum/difficulty`` (the mean of what
    was chosen by).

    Args:
        from_: The run directory whose recorded losses are used, or its :class:`composer_kd.Archive`. Needed for
            ``'curriculum'`` and ``'rho'``. Default: ``None``.
        mode: ``'curriculum'``, ``'infobatch'`` or ``'rho'``; the arguments below belong to the modes in brackets.
            Default: ``'curriculum'``.
        statistic: (curriculum, rho) What the recorded losses say of a sample: their ``'mean'``, the ``'last'``, that of
            ``'epoch 5'`` (counted from 0); or, for the curriculum, ``'forgetting'``, how often it went from right to
            wrong, with samples that were never right as the hardest. Default: ``'mean'``.
        order: (curriculum) ``'easy_first'`` or ``'hard_first'``. Default: ``'easy_first'``.
        pacing: (curriculum) How the share grows: ``'linear'``, ``'root'`` (fast, then slower), ``'exponential'`` (slow,
            then faster) or ``'step'`` (``start``, then everything). Default: ``'linear'``.
        start: (curriculum) The share in the first epoch, above 0. Default: ``0.3``.
        until: (curriculum) When all data is in use: ``'0.5dur'``, ``'10ep'`` or ``'500ba'``. Default: ``'0.5dur'``.
        use: (curriculum) ``'selection'`` trains on the share alone; ``'weights'`` trains on everything and weights the
            label losses: 1 within the share, falling as share / place beyond, and 1 on average. Default:
            ``'selection'``.
        unseen: (curriculum, rho) Samples that the archive does not know: ``'include'`` has them in every epoch,
            ``'exclude'`` in none; ``'easy'`` and ``'hard'`` put them at that end of the curriculum's order.
            Default: ``'include'``.
        balanced: (curriculum) Whether the share is taken of each class by itself, so that easy classes do not come
            first. Default: ``True``.
        prune: (infobatch) The probability of leaving out a sample of low loss. Default: ``0.5``.
        full_from: (infobatch) From when on nothing is left out. Default: ``'0.875dur'``.
        keep: (rho) The share of the data that an epoch trains on. Default: ``0.5``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import LossCurriculum
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='20ep',
                algorithms=[LossCurriculum('runs/gen0', start=0.3, until='0.5dur')],
            )
    """

    needs: ClassVar[Mapping[str, Need]] = {'from_': Need('losses')}

    def __init__(
        self,
        from_: Archive | str | Path | None = None,
        mode: Literal['curriculum', 'infobatch', 'rho'] = 'curriculum',
        statistic: str = 'mean',
        order: Literal['easy_first', 'hard_first'] = 'easy_first',
        pacing: Literal['linear', 'root', 'exponential', 'step'] = 'linear',
        start: float = 0.3,
        until: str = '0.5dur',
        use: Literal['selection', 'weights'] = 'selection',
        unseen: Literal['include', 'easy', 'hard', 'exclude'] = 'include',
        balanced: bool = True,
        prune: float = 0.5,
        full_from: str = '0.875dur',
        keep: float = 0.5,
    ):
        check_mode(mode, self.arguments, OF_MODE)
        self.mode, self.statistic, self.unseen = mode, statistic, unseen
        if mode == 'curriculum':
            one_of(order, ('easy_first', 'hard_first'), 'order')
            one_of(pacing, PACINGS, 'pacing')
            one_of(use, ('selection', 'weights'), 'use')
            one_of(unseen, ('include', 'easy', 'hard', 'exclude'), 'unseen')
            share = number(start, 'start', above=0, most=1)
            self.rule: Rule = Paced(order, pacing, share, ramp(until, 'until'), use, unseen, balanced)
        elif mode == 'infobatch':
            self.rule = InfoBatch(number(prune, 'prune', above=0, below=1), ramp(full_from, 'full_from', decay=''))
        else:
            one_of(unseen, ('include', 'exclude'), 'unseen')
            self.rule = Rho(number(keep, 'keep', above=0, most=1), unseen)
        check_statistic(statistic)
        if mode == 'rho' and statistic == 'forgetting':
            raise UserError(
                "statistic: 'forgetting' is no loss, and mode 'rho' subtracts losses; write 'mean' or 'last'"
            )
        if self.rule.needs_archive and from_ is None:
            raise UserError(f'from: mode {mode!r} needs the run directory of an earlier run that recorded its losses')
        self.archive = from_ if isinstance(from_, Archive) or from_ is None else Archive(from_)
        self.choice: EpochSelection | None = None
        """What the epoch under way trains on."""
        self._own = CurrentLosses(type(self).__name__)
        self._losses = SampleLosses(type(self).__name__)
        self._epochs = SelectedEpochs(type(self).__name__)
        self._weights = SampleWeights(type(self).__name__)
        self._samples = Samples.none()
        self._stored = torch.zeros(0)
        self._begun = False
        self._saved: tuple[torch.Tensor, torch.Tensor] | None = None  # ids and stored losses out of a checkpoint

    _ALWAYS = frozenset({Event.INIT, Event.FIT_START, Event.EPOCH_START, Event.FIT_END})
    _COLLECTING = frozenset({
        Event.BEFORE_TRAIN_BATCH, Event.BEFORE_FORWARD, Event.AFTER_FORWARD, Event.AFTER_TRAIN_BATCH, Event.BATCH_END,
        Event.EPOCH_END,
    })  # fmt: skip

    def match(self, event: Event, state: State) -> bool:
        if event == Event.AFTER_LOSS:
            return self._weights.on
        return event in self._ALWAYS or (event in self._COLLECTING and self.rule.needs_own_losses)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self._init(state)
        elif event == Event.FIT_START:
            self._fit_start(state)
        elif event == Event.EPOCH_START:
            self._choose(state)
            self._log(logger)
        elif event == Event.BEFORE_TRAIN_BATCH:
            self._losses.start_pass()
        elif event == Event.BEFORE_FORWARD:
            self._losses.read_labels(state.batch)
        elif event == Event.AFTER_FORWARD:
            self._losses.add(state.model, state.outputs, state.batch)
        elif event == Event.AFTER_LOSS:
            self._weights.apply(state)
        elif event == Event.AFTER_TRAIN_BATCH:
            self._losses.end_pass()
        elif event == Event.BATCH_END:
            self._own.add(self._losses.take())
        elif event == Event.EPOCH_END:
            self._own.end_epoch()
        elif event == Event.FIT_END:
            self._epochs.stop(state)

    # -- before training ------------------------------------------------------------------------------------------

    def _init(self, state: State) -> None:
        refuse_second(self, LossCurriculum, Training(state.algorithms), remedy='give one')
        # Late, so that at AFTER_LOSS the labels are still those that LabelSmoothing made the loss of; before
        # Distillation, which asks at FIT_START what is selected.
        state.algorithms.remove(self)
        place = len(state.algorithms)
        while place and isinstance(state.algorithms[place - 1], Distillation):
            place -= 1
        state.algorithms.insert(place, self)

    def _fit_start(self, state: State) -> None:
        owner, rule = type(self).__name__, self.rule
        self._epochs.stop(state)  # What a fit that was interrupted left.
        dataset = getattr(state.train_dataloader, 'dataset', None)
        self._samples = Samples.of(dataset)
        refuse_strict_model(state.model, dataset)
        self.check(Training.of(state))
        if rule.schedule is not None:
            rule.schedule.check(Progress.of(state), where=owner)
        self._read_archive()
        if rule.weighs:
            self._weights.start(self._samples.ids, state)
        if rule.needs_own_losses:
            self._own.start(self._samples)
        if rule.selects:
            if int(state.timestamp.batch_in_epoch) and not self._begun:
                raise UserError(
                    f'{owner}: this checkpoint was written inside an epoch of a training without {owner}; begin at the '
                    f'end of an epoch'
                )
            self._epochs.start(state)
        self._begun = True
        self._choose(state)

    def check(self, training: Training) -> None:
        """Refuse a second curriculum, and algorithms whose losses are not those of single samples."""
        refuse_second(self, LossCurriculum, training, remedy='give one')
        for algorithm in training.algorithms if self.rule.weighs or self.rule.needs_own_losses else ():
            name = type(algorithm).__name__
            if name in SPOIL_LOSSES:
                raise UserError(
                    f'{training.owner(self)}: {name} is in the same Trainer; {SPOIL_LOSSES[name]}: leave it out'
                )

    def _read_archive(self) -> None:
        self._stored = torch.full((len(self._samples),), torch.nan, dtype=torch.float64)
        if self.archive is None:
            return
        archive, ids = self.archive, torch.from_numpy(self._samples.ids)
        if self._saved is not None and torch.equal(self._saved[0], ids):
            self._stored = self._saved[1]
            return
        # Rank 0 reads: the run may be recording at this moment, and all ranks must take the same samples.
        self._stored = on_rank_zero(lambda: difficulties(archive, self._samples, self.statistic))
        unseen, where = int(self._stored.isnan().sum()), self.archive.run.path
        if unseen == len(self._samples):
            raise UserError(
                f'{type(self).__name__}: {where} recorded no losses of this training data; name a run that was trained '
                f'on it'
            )
        if unseen and dist.get_global_rank() == 0:
            does = {
                'include': 'trained on in every epoch', 'exclude': 'left out',
                'easy': 'taken as the easiest', 'hard': 'taken as the hardest',
            }  # fmt: skip
            warnings.warn(
                f'{type(self).__name__}: {where} has no losses of {unseen:,} of the {len(self._samples):,} training '
                f'samples; they are {does[self.unseen]} (unseen: {self.unseen})',
                stacklevel=2,
            )

    # -- an epoch -------------------------------------------------------------------------------------------------

    def _choose(self, state: State) -> None:
        """Decide what the epoch under way trains on, from what stood at its start: also when it is continued."""
        now = Progress.of(state)
        start = replace(now, batch=now.batch - now.batch_in_epoch, batch_in_epoch=0)
        samples = self._samples
        self.choice = self.rule.choose(
            RuleContext(
                seed=state.rank_zero_seed,
                progress=start,
                ids=torch.from_numpy(samples.ids),
                labels=torch.from_numpy(samples.labels),
                stored=self._stored,
                own=self._own.last.double() if self.rule.needs_own_losses else self._stored,
            )
        )
        self._weights.set(self.choice.weights, state)
        self._epochs.select(self.choice.rows.numpy(), state)

    def _log(self, logger: Logger) -> None:
        choice = self.choice
        assert choice is not None
        metrics = {'curriculum/fraction': choice.fraction, 'curriculum/samples': int(choice.rows.sum())}
        if self.archive is not None:
            metrics['curriculum/unseen'] = int(self._stored.isnan().sum())
        if choice.difficulty is not None:
            metrics['curriculum/difficulty'] = choice.difficulty
        logger.log_metrics(metrics)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.archive is not None:
            # The archive may hold more by the time this training goes on: it goes on by what it began with.
            state['stored'] = {'ids': torch.from_numpy(self._samples.ids), 'losses': without_nan(self._stored)}
        if self.rule.needs_own_losses:
            state['own'] = self._own.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        del strict
        self._begun = True
        if 'stored' in state:
            self._saved = (state['stored']['ids'], with_nan(state['stored']['losses']))
        if self.rule.needs_own_losses and 'own' in state:
            self._own.load_state_dict(state['own'])


# Which arguments a mode has; what is given beside them would do nothing, and is refused.
OF_MODE = {
    'curriculum': {'from_', 'statistic', 'order', 'pacing', 'start', 'until', 'use', 'unseen', 'balanced'},
    'infobatch': {'prune', 'full_from'},
    'rho': {'from_', 'statistic', 'unseen', 'keep'},
}
