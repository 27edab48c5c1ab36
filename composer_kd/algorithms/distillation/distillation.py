"""Core distillation classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from composer.core import Event, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_kd.algorithms.described import Described
from composer_kd.algorithms.distillation.loss import make_loss
from composer_kd.algorithms.distillation.overtaking import StudentOvertakes
from composer_kd.algorithms.distillation.sums import StepSums
from composer_kd.algorithms.distillation.target import DistillationTarget
from composer_kd.algorithms.roles import Cost, Need, Training, refuse_second
from composer_kd.core.errors import UserError
from composer_kd.core.options import switch
from composer_kd.core.ramp import Ramp
from composer_kd.core.schedule import Progress, Schedule
from composer_kd.models.batch import (
    has_single_output,
    keys_of,
    labels_of,
    logits_of,
    raw_labels,
    teacher_batch,
    total_loss,
)
from composer_kd.models.classifier import refuse_strict_model
from composer_kd.models.composer_compat import MIX_IMAGES, first_of
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.checks import OutputChecks
from composer_kd.teachers.factory import Teacher
from composer_kd.teachers.mix import Mix, MixContext, make_mix
from composer_kd.teachers.pool import Query, TeacherPool

__all__ = ['Distillation']

TeacherLike = BaseTeacher | torch.nn.Module | str | Path | Mapping[str, Any]


class Distillation(Described):
    """Teach a student with the outputs of earlier models: teachers, a mix, a loss and a schedule.

    While the schedule is on, the loss of every step is::

        label_weight * label loss + kd_weight * strength * loss(student, mix(teachers))

    and the plain label loss otherwise; teachers run only in steps that need them. Composer's own algorithms may change
    the batch, the labels or the loss beside it: teachers see exactly the input that the student saw, and the
    distillation term is added last and whole.

    Logged at the end of every step: ``loss/train/label`` and ``loss/train/distill`` (as weighted, so that they add up
    to ``loss/train/total``), ``distill/weight`` and ``distill/agreement`` (the share of samples for which student and
    target prefer the same class); on the first batches also ``distill/teacher_accuracy/<name>``. Where the mix or a
    recording has no target for some samples, ``distill/label_only`` is their share: their label teaches them, with
    weight 1. Where the loss is given a temperature, ``distill/temperature``.

    Args:
        teachers: Modules, paths of run directories, or :class:`composer_kd.Teacher` objects; one or several. Recorded
            and live ones may be mixed.
        mix: How several outputs become one target: ``'uniform'``, a list of weights, ``'dirichlet'``, ``'random_one'``,
            ``'oracle'``, ``'confidence'``, ``'permuted'``, a name with options (``{'name': 'dirichlet', 'alpha': 0.5,
            'per': 'sample'}``) or a :class:`composer_kd.teachers.Mix`. Default: ``'uniform'``.
        loss: What compares student and target: ``'kl'``, ``'soft_ce'``, ``'mse'``, ``'dkd'``, ``'dist'``, ``'hard'``,
            ``'cwtm'``, a name with options, or a function of (student logits, target logits) that returns the batch's
            average. Default: ``'kl'``.
        schedule: When and how strongly, as in :class:`composer_kd.Schedule`. Default: ``'always'``.
        label_weight: The weight of the label loss while the schedule is on: a number, or one that changes
            (``'1 to 0.1'``, ``'0 to 1 until 20ep'``), as in :class:`composer_kd.core.ramp.Ramp`. Default: ``1.0``.
        kd_weight: The weight of the distillation term, likewise. Default: ``1.0``.
        standardize: Whether the logits of both sides are z-scored, sample by sample, before the loss.
            Default: ``False``.
        temperature: The temperature of a loss that has one: a number, one that changes (``'8 to 1'``), ``'learned'``,
            or ``{'learned': {'start': 8}}`` with the options of
            :class:`composer_kd.algorithms.distillation.loss.LearnedTemperature`; ``None`` leaves the loss's
            own (4). Default: ``None``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import Distillation
            trainer = Trainer(
                model=student,
                train_dataloader=train_dataloader,
                max_duration='10ep',
                algorithms=[Distillation(teachers=['runs/gen0'], loss='kl', schedule='first 0.3dur')],
            )
    """

    needs: ClassVar[Mapping[str, Need]] = {'teachers': Need('model', many=True)}

    def __init__(
        self,
        teachers: Sequence[TeacherLike] | TeacherLike,
        mix: str | Sequence[float] | dict[str, Any] | Mix = 'uniform',
        loss: str | dict[str, Any] | Callable[..., Tensor] = 'kl',
        schedule: str | Schedule = 'always',
        label_weight: float | str = 1.0,
        kd_weight: float | str = 1.0,
        standardize: bool = False,
        temperature: float | str | dict[str, Any] | None = None,
    ):
        several: list[Any] = list(teachers) if isinstance(teachers, list | tuple) else [teachers]
        if not several:
            raise UserError(f'{type(self).__name__}: teachers is empty; give at least one')
        self.label_weight = Ramp(label_weight, 'label_weight')
        self.kd_weight = Ramp(kd_weight, 'kd_weight')
        self.schedule = Schedule.of(schedule)
        self.mix = make_mix(mix)
        self.mix.check(len(several))
        if not any((self.label_weight.first, self.label_weight.last, self.kd_weight.first, self.kd_weight.last)):
            raise UserError(f'{type(self).__name__}: label_weight and kd_weight are both 0: nothing would be learnt')
        switch(standardize, f'{type(self).__name__}: standardize')
        self.loss = make_loss(loss, temperature, standardize)
        self.pool = TeacherPool([Teacher.of(teacher) for teacher in several], type(self).__name__)
        self.arguments['teachers'] = self.teachers
        self._overtaking = StudentOvertakes(type(self).__name__) if self.schedule.until_overtaken else None
        self.last_step: dict[str, float] = {}
        """The metrics that the last step logged."""
        self._sums = StepSums()
        self._loaded = False
        # Of the microbatch under way:
        self._labels: Tensor | None = None
        self._target: DistillationTarget | None = None
        self._numbers: dict[str, float] = {}
        self._on = False
        self._strength = 0.0

    _TRAINING = frozenset({
        Event.INIT, Event.AFTER_LOAD, Event.FIT_START, Event.BATCH_START, Event.BEFORE_TRAIN_BATCH,
        Event.BEFORE_FORWARD, Event.AFTER_FORWARD, Event.BEFORE_BACKWARD, Event.AFTER_TRAIN_BATCH, Event.BATCH_END,
        Event.FIT_END,
    })  # fmt: skip

    def match(self, event: Event, state: State) -> bool:
        return event in self._TRAINING or (self._overtaking is not None and event in StudentOvertakes.EVENTS)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self._init(state)
        elif event == Event.AFTER_LOAD:
            self._after_load(state)
        elif event == Event.FIT_START:
            self._fit_start(state)
        elif event == Event.BATCH_START:
            self._begin_step(state)
        elif event == Event.BEFORE_TRAIN_BATCH:
            self._sums.start_pass()
        elif event == Event.BEFORE_FORWARD:
            # Hard labels are read before MixUp and LabelSmoothing replace them; MixUp may never put them back.
            self._labels = labels_of(state.batch)
        elif event == Event.AFTER_FORWARD:
            self._query_teachers(state)
        elif event == Event.BEFORE_BACKWARD:
            self._add_to_loss(state)
        elif event == Event.AFTER_TRAIN_BATCH:
            self._after_train_batch(state)
        elif event == Event.BATCH_END:
            self._batch_end(state, logger)
        elif event == Event.FIT_END:
            self.checks.finish()
        elif self._overtaking is not None:
            self._overtaking.on_event(event, state, logger, self.teachers, self._expected_target)

    def _expected_target(self, state: State) -> Tensor:
        """The teachers' mix for a batch of evaluation data."""
        return self.mix.expected(self.pool.query_all(state))

    @property
    def teachers(self) -> list[BaseTeacher]:
        """Live and recorded ones, each with a name of its own."""
        return self.pool.teachers

    @property
    def checks(self) -> OutputChecks:
        """What was found of the teachers' outputs so far."""
        return self.pool.checks

    @property
    def teacher_accuracy(self) -> float | None:
        """The teachers' accuracy on the first batches, averaged over those that were counted."""
        accuracies = [
            correct / counted
            for correct, counted in zip(self.checks.correct, self.checks.counted, strict=True)
            if counted
        ]
        return sum(accuracies) / len(accuracies) if accuracies else None

    def costs(self) -> list[Cost]:
        counts = zip(self.teachers, self.pool.images_computed, self.pool.images_recorded, strict=True)
        return [
            Cost('teacher', images, reused, multiply_adds=teacher.multiply_adds) for teacher, images, reused in counts
        ]

    def seconds(self) -> dict[str, tuple[float, float]]:
        return {'teacher': (self.pool.clock.seconds(), 0.0)}

    @property
    def overtaken(self) -> bool:
        """Whether ``until overtaken`` has switched the distillation off."""
        return self._overtaking is not None and self._overtaking.overtaken

    # -- before training ------------------------------------------------------------------------------------------

    def _init(self, state: State) -> None:
        refuse_second(self, Distillation, Training(state.algorithms), remedy='give one of them all teachers')
        # Last at BEFORE_* events, first at AFTER_*: MixUp(interpolate_loss=True) scales the whole loss at
        # BEFORE_BACKWARD, and must not scale our term.
        state.algorithms.remove(self)
        state.algorithms.append(self)
        self.pool.place(state)

    def _after_load(self, state: State) -> None:
        if int(state.timestamp.batch) > 0 and not self._loaded:
            warnings.warn(
                f'{type(self).__name__}: this checkpoint comes from a training without {type(self).__name__}; '
                f'the distillation begins here, in epoch {int(state.timestamp.epoch)}',
                stacklevel=2,
            )

    def check(self, training: Training) -> None:
        """Refuse what cannot work in this training: a second distillation, its length, its batches, no evaluation."""
        refuse_second(self, Distillation, training, remedy='give one of them all teachers')
        if training.progress is not None:
            self._check_length(training.progress, training)
        least = self.loss.least_samples
        for key, size in training.sizes.items():
            if size < least:
                raise UserError(
                    f'{training.key(key)}: {size}, but the loss {self.loss.name} compares the samples of a batch; use '
                    f'{least} or more'
                )
        if self._overtaking is not None and not training.validates:
            if training.planned:
                where = training.key('data.val_fraction')
                raise UserError(f"{where}: schedule 'until overtaken' compares on validation data; set it to 0.1, say")
            raise UserError(
                f"{training.option(self, 'schedule')} 'until overtaken' compares on the first evaluator, and the "
                f'Trainer has none; give eval_dataloader (validation data)'
            )

    def _check_length(self, progress: Progress, training: Training) -> None:
        self.schedule.check(progress, where=training.option(self, 'schedule'))
        for changing in (self.label_weight, self.kd_weight, *self.loss.numbers.values()):
            changing.check(progress, training.prefix(self))
        for at in progress.ahead():
            if self.schedule.weight(at) and not self.label_weight.at(at) and not self.strength(at):
                raise UserError(
                    f'{training.option(self, "label_weight")} and kd_weight are both 0 in epoch {at.epoch}: nothing '
                    f'would be learnt then'
                )

    def _fit_start(self, state: State) -> None:
        refuse_strict_model(state.model, getattr(state.train_dataloader, 'dataset', None))
        self.check(Training.of(state))
        mixing = first_of(state.algorithms, MIX_IMAGES)
        if mixing is not None and self.mix.leaves_some_to_labels and self.label_weight.value != 1:
            warnings.warn(
                f'{type(self).__name__}: beside {mixing}, what no teacher gets right is taught by the label of the one '
                f'image of a mixture alone; with label_weight=1 it is taught by both',
                stacklevel=2,
            )
        self.pool.start(state, self.strength)

    # -- a step ---------------------------------------------------------------------------------------------------

    def strength(self, progress: Progress) -> float:
        """The weight of the distillation term at this point of the training."""
        return self.kd_weight.at(progress) * self.schedule.weight(progress, self.overtaken)

    def _begin_step(self, state: State) -> None:
        self._sums.start_step()
        if self.strength(Progress.of(state)):
            self.pool.look_up(state)

    def _query_teachers(self, state: State) -> None:
        progress = Progress.of(state)
        self._on = self.schedule.weight(progress, self.overtaken) > 0
        self._strength = self.strength(progress)
        self._numbers = self.loss.at(progress)
        label_weight = self.label_weight.at(progress) if self._on else 1.0
        target = self._target = DistillationTarget(self._labels, self._strength, label_weight, self._numbers)
        student = logits_of(state.outputs, 'the student')
        target.single = has_single_output(state.outputs)
        target.of_labelled = self.mix.leaves_some_to_labels or self.loss.wants_labels
        least = self.loss.least_samples
        if not self.pool.validated:  # In the first batch, whatever the schedule: not in epoch 10.
            if target.single:
                self._check_single_output(state.batch)
            self.loss.check_labels(self._labels)
            self.mix.check_labels(self._labels)
            if len(student) < least:
                raise UserError(
                    f'loss: {self.loss.name} compares the samples of a batch, and this one has a single sample; use '
                    f'larger batches and microbatches'
                )
        if self._strength == 0.0 and self.pool.validated:
            return
        step = self._step(state, student)
        selected = self.mix.selected(len(self.teachers), step) if self._strength else []
        query = Query(state, teacher_batch(state), student, self._labels, self._sums.samples, self._sums.add_check)
        with self.pool.clock.running(student.is_cuda):
            if not self.pool.validated:
                self.pool.validate(query, soon=selected)
            if not selected:
                return
            outputs, known = self.pool.outputs(selected, query)
            step = replace(step, known=known)
            target.logits, target.mask = self.mix.target_and_mask(outputs, step)
        if least > 1 and (len(student) if target.mask is None else int(target.mask.sum())) < least:
            target.mask = torch.zeros(len(student), dtype=torch.bool, device=student.device)

    def _check_single_output(self, batch: Any) -> None:
        """Refuse what compares classes for a model with a single output that is none of two classes."""
        owner = type(self).__name__
        if self.loss.z_score:
            raise UserError(f'{owner}: standardize: a single output has no spread over classes; leave it out')
        if not self.loss.compares_outputs and raw_labels(batch) is not None and self._labels is None:
            raise UserError(
                f'{owner}: the student has a single output and labels other than 0 and 1, so it is no classifier; '
                f"loss='mse' compares the outputs themselves"
            )

    def _step(self, state: State, student: Tensor) -> MixContext:
        samples, keys = len(student), keys_of(state.batch)
        if keys is not None and len(keys) != samples:
            raise UserError(
                f'{type(self).__name__}: the batch has {samples} samples and {len(keys)} keys; an algorithm that drops '
                f'samples (SelectiveBackprop does) needs (x, y) batches'
            )
        if keys is not None:
            ids = keys[:, 0]
        else:
            # Without keys, a sample is known by its rank and its place in the rank's batch.
            first = (dist.get_global_rank() << 32) + self._sums.samples
            ids = torch.arange(first, first + samples, dtype=torch.int64, device=student.device)
        return MixContext(seed=state.rank_zero_seed, batch=int(state.timestamp.batch), ids=ids, labels=self._labels)

    def _add_to_loss(self, state: State) -> None:
        label, target = total_loss(state.loss), self._target
        student = logits_of(state.outputs, 'the student').float()
        assert target is not None
        if target.changes_nothing:
            self._sums.add(len(student), label)
            return
        label = target.label_part(label, student, type(self).__name__)
        if target.logits is None:  # kd_weight is 0: the other weight holds nevertheless.
            self._sums.add(len(student), label)
            self._set_loss(state, label)
            return
        distilled = target.distill(student, self.loss)
        self._sums.add(len(student), label, distilled)
        # A sum, not the label loss itself: Composer scales what is backpropagated in place.
        self._set_loss(state, label + distilled.term)
        self._target = None

    @staticmethod
    def _set_loss(state: State, total: Tensor) -> None:
        state.loss = {**state.loss, 'total': total} if isinstance(state.loss, dict) else total

    def _after_train_batch(self, state: State) -> None:
        self._sums.end_pass()
        if self.pool.first_use(queried=bool(self._strength)):
            # The optimizer steps after this event: what a broken teacher has said is not learnt.
            _, rows = self._sums.reduce(len(self.teachers), state.device)
            self.checks.refuse_broken(rows)

    def _batch_end(self, state: State, logger: Logger) -> None:
        # BATCH_END comes after the clock has moved on: the step that ended is the one that the sums belong to.
        metrics, rows = self._sums.reduce(len(self.teachers), state.device)
        metrics['distill/weight'] = self._strength
        if self.loss.temperature is not None:
            metrics['distill/temperature'] = self._numbers['temperature']
        if self.loss.learned is not None and self._strength:
            self.loss.learned.climb(self._sums.slope, Progress.of(state))
        metrics |= self.pool.metrics(rows, more_to_come=self._on)
        logger.log_metrics(metrics)
        self.last_step = metrics

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state |= self.pool.state_dict()
        if self.loss.learned is not None:
            state['temperature'] = self.loss.learned.state_dict()
        if self._overtaking is not None:
            state['overtaking'] = self._overtaking.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = False) -> None:
        del strict
        self._loaded = True
        self.pool.load_state_dict(state)
        if self.loss.learned is not None and 'temperature' in state:
            self.loss.learned.load_state_dict(state['temperature'])
        if self._overtaking is not None and 'overtaking' in state:
            self._overtaking.load_state_dict(state['overtaking'])
