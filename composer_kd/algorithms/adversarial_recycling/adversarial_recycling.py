"""Core AdversarialRecycling class."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from composer.core import Event, State
from composer.loggers import Logger
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import Attack, Budget
from composer_kd.algorithms.adversarial_recycling.examples import Examples, Views, check_same, read_examples
from composer_kd.algorithms.adversarial_recycling.step import AdversarialBatch, AttackStep, AttackSums, StepPlan
from composer_kd.algorithms.adversarial_recycling.table import DeltaTable
from composer_kd.algorithms.described import Described, check_mode
from composer_kd.algorithms.roles import Cost, Need, Training, refuse_second
from composer_kd.archive.archive import Archive
from composer_kd.archive.samples import Samples
from composer_kd.core.errors import UserError
from composer_kd.core.options import number, one_of, whole_number
from composer_kd.models.batch import keys_of, labels_of, logits_of
from composer_kd.models.classifier import refuse_strict_model
from composer_kd.models.composer_compat import CHANGE_IMAGES, DROP_SAMPLES, first_of
from composer_kd.models.weights import share_buffers
from composer_kd.teachers.clock import Clock

__all__ = ['OF_MODE', 'AdversarialRecycling', 'length_of']


class AdversarialRecycling(Described):
    """Train on adversarial examples, and keep them: they begin the next attack, of this run or of a later one.

    ``'recycle'``: an attack begins where the last one on the same image ended. The model changes little between epochs,
    so one step does the work of many (`Zheng et al, 2020 <https://arxiv.org/abs/1912.11969>`_).

    ``'fresh'``: every attack begins anew, as in ordinary adversarial training (`Madry et al, 2018
    <https://arxiv.org/abs/1706.06083>`_): what the other modes are compared with.

    ``'replay'``: the examples of an earlier run, without an attack.

    A delta is kept for the stored image, before crop and flip, and so serves every view. Teachers of a
    :class:`.Distillation` see the images that the student sees, or those as they were. The callback
    :class:`.RecordAdversarial` leaves the deltas in the run's archive.

    Logged at the end of every step: ``adversarial/loss`` and ``adversarial/success`` (the share that the student gets
    wrong) of the adversarial examples in the pass that trains; ``adversarial/attacked`` and ``adversarial/replayed``,
    shares of the batch.

    Args:
        mode: ``'recycle'``, ``'fresh'`` or ``'replay'``; the arguments below belong to the modes in brackets.
            Default: ``'recycle'``.
        from_: (recycle, replay) The run directory of an earlier run that recorded its examples, or its
            :class:`composer_kd.Archive`: what is replayed, or what the first attacks begin at. Default: ``None``.
        epsilon: (recycle, fresh) The radius of the ball, in pixels from 0 to 255; ``None`` is 8 for ``linf`` and 128
            for ``l2``. Default: ``None``.
        steps: (recycle, fresh) Gradient steps of an attack. Default: ``1``.
        step_size: (recycle, fresh) In pixels; ``None`` is a quarter of epsilon for several steps. For a single one it
            is half of epsilon when recycling, 1.25 times epsilon from a random start, and epsilon from the image
            itself. Default: ``None``.
        norm: (recycle, fresh) ``'linf'`` or ``'l2'``. Default: ``'linf'``.
        targeted: (recycle, fresh) Towards another class, drawn once for each sample, instead of away from the label.
            Default: ``False``.
        start: (recycle, fresh) Where an attack begins that has nothing to go on from: ``'random'``, in the ball, or
            ``'image'``. Default: ``'random'``.
        every: (recycle, fresh) Attack in every n-th step. In the others, ``'recycle'`` shows what is kept and
            ``'fresh'`` the images as they are. Default: ``1``.
        share: The share of a batch that is shown adversarially, sample by sample. Default: ``1.0``.
        keep: (recycle) ``'newest'``: the newer example takes the place of the older. ``'strongest'``: unless it is
            weaker than the one that the attack began at, both at the weights of this step, which costs one forward pass
            more. Default: ``'newest'``.
        reset: (recycle) After every so many epochs, as ``'10ep'``, or batches, as ``'500ba'``, all that is kept is
            forgotten, an earlier run's examples too: the next attacks begin as the first ones did. ``None``: never.
            Default: ``None``.
        teachers_see: What teachers are asked about: ``'shown'``, the images that the student sees, or ``'clean'``, the
            same views without what the attack has added: the student is then to say of an adversarial image what its
            teachers say of the clean one (`Goldblum et al, 2020 <https://arxiv.org/abs/1905.09747>`_), and recorded
            teachers know that. Default: ``'shown'``.
        budget: (recycle, fresh) A bound on what is kept: a number of samples, or a size as ``'64MB'``; ``None`` keeps
            all. ``'fresh'`` keeps some for :class:`.RecordAdversarial` alone. Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import AdversarialRecycling
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                max_duration='20ep',
                algorithms=[AdversarialRecycling(epsilon=8)],
            )
    """

    needs: ClassVar[Mapping[str, Need]] = {'from_': Need('examples')}

    def __init__(
        self,
        mode: Literal['recycle', 'fresh', 'replay'] = 'recycle',
        from_: Archive | str | Path | None = None,
        epsilon: float | None = None,
        steps: int = 1,
        step_size: float | None = None,
        norm: Literal['linf', 'l2'] = 'linf',
        targeted: bool = False,
        start: Literal['random', 'image'] = 'random',
        every: int = 1,
        share: float = 1.0,
        keep: Literal['newest', 'strongest'] = 'newest',
        reset: str | None = None,
        teachers_see: Literal['shown', 'clean'] = 'shown',
        budget: int | str | None = None,
    ):
        check_mode(mode, self.arguments, OF_MODE)
        for name, value in (('start', start), ('keep', keep), ('teachers_see', teachers_see)):
            one_of(value, _VALUES[name], name)
        if mode == 'replay' and from_ is None:
            raise UserError("from: mode 'replay' needs the run directory of an earlier run that recorded its examples")
        one_step = 0.5 if mode == 'recycle' else 1.0 if start == 'image' else 1.25
        self.mode, self.share, self.every = mode, number(share, 'share', above=0, most=1), whole_number(every, 'every')
        self.attack = Attack.checked(epsilon, steps, step_size, norm, targeted, keep == 'strongest', one_step)
        self.begin = start
        self.reset = None if reset is None else length_of(reset, 'reset')
        self.budget = Budget(budget)
        self.teachers_see = teachers_see
        self.batch_for_teachers: Any = None
        """The microbatch under way as it was, where teachers are asked about that."""
        self.archive = from_ if isinstance(from_, Archive) or from_ is None else Archive(from_)
        self._in_steps, self._between = Clock(), Clock()
        self._on_gpu = False
        self.images_attacked = 0
        """Images that were attacked so far in this process, on this rank."""
        self.images_replayed = 0
        """Images whose kept example was shown without an attack, likewise."""
        self.last_step: dict[str, float] = {}
        """What the last step logged."""
        self.table = DeltaTable(type(self).__name__)
        self._keeps = mode != 'fresh'
        self._replayed_file: str | None = None
        self._examples: Examples | None = None
        self._sums = AttackSums()
        self._step: AttackStep | None = None
        # Of the microbatch under way:
        self._labels: Tensor | None = None
        self._made: AdversarialBatch | None = None

    _EVENTS = frozenset({
        Event.INIT, Event.FIT_START, Event.BATCH_START, Event.BEFORE_TRAIN_BATCH, Event.BEFORE_FORWARD,
        Event.AFTER_FORWARD, Event.AFTER_TRAIN_BATCH, Event.BATCH_END, Event.EPOCH_END,
    })  # fmt: skip

    def match(self, event: Event, state: State) -> bool:
        return event in self._EVENTS

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self._init(state)
        elif event == Event.FIT_START:
            self._fit_start(state)
        elif event == Event.EPOCH_END and self._keeps:
            with self.between_steps():
                self.table.exchange()
        elif event != Event.EPOCH_END:
            with self._in_steps.running(self._on_gpu):
                self._apply_in_step(event, state, logger)

    def _apply_in_step(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BATCH_START:
            self._plan(state)
        elif event == Event.BEFORE_TRAIN_BATCH:
            self._of_step.start_pass()
            self._sums.start_pass()
            self.batch_for_teachers = None
        elif event == Event.BEFORE_FORWARD:
            self._show(state)
        elif event == Event.AFTER_FORWARD:
            self._count(state)
        elif event == Event.AFTER_TRAIN_BATCH:
            self._sums.end_pass()
            self.batch_for_teachers = None
        elif event == Event.BATCH_END:
            self._commit(state, logger)

    def between_steps(self) -> AbstractContextManager[None]:
        """A block of work on examples outside of a step, whose seconds count as theirs: telling ranks, writing."""
        return self._between.running(self._on_gpu)

    def costs(self) -> list[Cost]:
        return [Cost('attack', self.images_attacked, self.images_replayed, self.attack.passes)]

    def seconds(self) -> dict[str, tuple[float, float]]:
        return {'attack': (self._in_steps.seconds(), self._between.seconds())}

    @property
    def leaves_teachers_the_views(self) -> bool:
        """Whether what was recorded of the views is what teachers would say."""
        return self.teachers_see == 'clean'

    @property
    def makes_examples(self) -> bool:
        """Whether there will be something to record."""
        return self.mode != 'replay'

    def keep_examples(self) -> None:
        self._keeps = True

    def gather_examples(self) -> None:
        self.table.exchange()

    def kept_examples(self) -> tuple[Samples, Tensor, dict[str, Any]]:
        samples, deltas = self.table.entries()
        return samples, deltas, self.attack.as_mapping()

    # -- before training ------------------------------------------------------------------------------------------

    def _init(self, state: State) -> None:
        self._on_gpu = state.device.name == 'gpu'
        refuse_second(self, AdversarialRecycling, Training(state.algorithms), remedy='give one')

    def check(self, training: Training) -> None:
        """Refuse a second one, what changes images or drops samples, and views that an example cannot serve."""
        refuse_second(self, AdversarialRecycling, training, remedy='give one')
        if name := first_of(training.others(self), CHANGE_IMAGES | DROP_SAMPLES):
            raise UserError(
                f'{training.owner(self)}: {name} is in the same Trainer; an example is a delta on the image that its '
                f'key names: leave one of them out'
            )
        if training.augmentation is not None:
            Views(training.augmentation, training.owner(self))

    def _fit_start(self, state: State) -> None:
        owner = type(self).__name__
        self.check(Training.of(state))
        dataset: Any = getattr(state.train_dataloader, 'dataset', None)
        samples = Samples.of(dataset)
        refuse_strict_model(state.model, dataset)
        try:
            views, normalization = Views(dataset.augmentation, owner), dataset.normalization
            classes, shape = dataset.num_classes, tuple(dataset[0][0].shape)
        except AttributeError as error:
            raise UserError(
                f'{owner}: the training data ({type(dataset).__name__}) has no {error.name}: an example is a delta on '
                f'the stored pixels; use data out of shards (composer-kd convert, composer_kd.data.open_data)'
            ) from None
        self._check_keeping(shape)
        table = self.table if self._keeps else None
        self._examples = Examples(
            self.attack, self.begin, self.mode == 'recycle', table, views, normalization, classes, owner
        )
        if self._keeps:
            self.table.start(samples, shape, self.budget, state.device)
            self._read_source(samples, shape, state, self._examples)

    def _check_keeping(self, shape: tuple[int, ...]) -> None:
        owner, attack = type(self).__name__, self.attack
        if self.mode == 'fresh' and not self._keeps and self.budget.given is not None:
            raise UserError(f"{owner}: budget: mode 'fresh' keeps nothing that nobody records; leave it out")
        # Deltas are kept in whole pixels: of one that is half of each, rounding leaves as much noise as delta.
        least = 0.5 * math.prod(shape) ** 0.5
        if self._keeps and self.mode != 'replay' and attack.norm == 'l2' and attack.epsilon < least:
            raise UserError(
                f'{owner}: epsilon: {attack.epsilon:g} in l2 is less than half of each of {math.prod(shape):,} pixels, '
                f'and deltas are kept in whole ones; raise it to {math.ceil(least)} or more, or use norm: linf'
            )

    def _read_source(self, samples: Samples, shape: tuple[int, ...], state: State, examples: Examples) -> None:
        goes_on = int(state.timestamp.batch) > 0
        if self.archive is None or (self.mode == 'recycle' and goes_on):
            return  # A training that goes on has what it made of them in its checkpoint.
        does = 'they are shown as they are' if self.mode == 'replay' else 'their first attack has nothing to begin at'
        found = read_examples(self.archive, samples, shape, type(self).__name__, does)
        if self.mode == 'replay':
            check_same(self._replayed_file if goes_on else None, found.xxh3, self.archive, type(self).__name__)
            self._replayed_file = found.xxh3
            examples.ball = (float(found.metadata['epsilon']), found.metadata['norm'])
        self.table.fill(found.deltas, found.known)

    # -- a step ---------------------------------------------------------------------------------------------------

    @property
    def _of_step(self) -> AttackStep:
        assert self._step is not None, 'BATCH_START comes first'
        return self._step

    def _plan(self, state: State) -> None:
        # The batch is still whole and its keys on the host: who is shown what is known without waiting for the device.
        keys = keys_of(state.batch)
        if keys is None:
            raise UserError(
                f'{type(self).__name__}: the training batches are not (image, label, key): examples need to know whose '
                f'they are; use data out of shards (composer-kd convert, composer_kd.data.open_data)'
            )
        ids, step = keys[:, 0], int(state.timestamp.batch)
        if self._begins_anew(state):
            self.table.clear()
        slots = self.table.slots(ids) if self._keeps else torch.full((len(ids),), -1)
        known = self.table.known(slots) if self.mode != 'fresh' else torch.zeros(len(ids), dtype=torch.bool)
        attacks = self.mode != 'replay' and step % self.every == 0
        if attacks:
            # DistributedDataParallel gives rank 0's statistics to all before its next forward, and an attack passes it
            # by: the ranks would attack different models, and a resumed rank another one than before.
            share_buffers(state.model)
        self._step = AttackStep(StepPlan.of(ids, slots, known, self.share, attacks, state.rank_zero_seed, step))

    def _begins_anew(self, state: State) -> bool:
        """Whether the step under way is the first one after a reset: known from where the training stands alone."""
        if self.reset is None:
            return False
        number, unit = self.reset
        at, within = state.timestamp.batch, 0
        if unit == 'ep':
            at, within = state.timestamp.epoch, int(state.timestamp.batch_in_epoch)
        return int(at) > 0 and int(at) % number == 0 and within == 0

    def _show(self, state: State) -> None:
        # Here, and not in the data's path or at BATCH_START: images are on the device and as their view shows them, and
        # microbatches are cut before BEFORE_TRAIN_BATCH, so that a batch that is replaced later has no effect.
        images, labels, keys = state.batch[0], labels_of(state.batch), keys_of(state.batch)
        if labels is None or keys is None or len(keys) != len(images) or len(labels) != len(images):
            raise UserError(
                f'{type(self).__name__}: the training batches do not bring a class and a key for each image'
            )
        first, plan, made = self._of_step.next(len(images))
        if made is None:
            assert self._examples is not None
            made = self._examples.make(images, labels, keys, plan, state)
            self._of_step.keep(first, made)
            self.images_attacked += made.attacked
            self.images_replayed += made.replayed
        self._labels, self._made = labels, made
        self.batch_for_teachers = state.batch if self.teachers_see == 'clean' else None
        if len(made.shown):
            state.batch = (made.images, *state.batch[1:])

    def _count(self, state: State) -> None:
        made, self._made = self._made, None
        if made is not None and len(made.shown):
            assert self._labels is not None
            self._sums.add(logits_of(state.outputs, 'the student').float(), self._labels, made.shown)

    def _commit(self, state: State, logger: Logger) -> None:
        step = self._of_step
        if self._keeps and self.mode != 'replay':
            for made in step.made():
                self.table.put(made.slots, made.deltas)
        self.last_step = self._sums.metrics(step.made(), len(step.plan.slots), state.device)
        logger.log_metrics(self.last_step)
        self._step = None

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.mode == 'replay':
            state['replayed'] = self._replayed_file
        elif self._keeps:
            with self.between_steps():
                self.table.exchange()
            state['examples'] = self.table.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        del strict
        self._replayed_file = state.get('replayed')
        if 'examples' in state:
            self.table.load_state_dict(state['examples'])


_ALL = {'share', 'teachers_see'}
_ATTACK = {'epsilon', 'steps', 'step_size', 'norm', 'targeted', 'start', 'every', 'budget'}

# Which arguments a mode has; what is given beside them would do nothing, and is refused.
OF_MODE = {
    'recycle': _ALL | _ATTACK | {'from_', 'keep', 'reset'},
    'fresh': _ALL | _ATTACK,
    'replay': _ALL | {'from_'},
}

_VALUES = {
    'start': ('random', 'image'),
    'keep': ('newest', 'strongest'),
    'teachers_see': ('shown', 'clean'),
}


def length_of(value: Any, name: str) -> tuple[int, str]:
    """``'10ep'`` as (10, 'ep'); batches are ``ba``."""
    found = re.fullmatch(r'([1-9][0-9]{0,8})(ep|ba)', value) if isinstance(value, str) else None
    if found is None:
        raise UserError(f"{name}: expected a number of epochs or batches, as '10ep' or '500ba', got {value!r}")
    return int(found[1]), found[2]
