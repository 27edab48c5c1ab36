"""The measures of a run, one line an epoch: accuracies, losses, seconds and multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.models import ComposerModel
from composer.utils import dist
from torch import Tensor

from composer_kd.algorithms.distillation import Distillation
from composer_kd.callbacks.attack_costs import AttackCosts
from composer_kd.callbacks.epoch_totals import EpochTotals, StepCounts
from composer_kd.models import multiply_adds, plain
from composer_kd.models.batch import input_of, labels_of, logits_of, total_of

__all__ = ['Measures']

# Steps between two looks at what the device has counted; evaluations, checkpoints and an epoch's end look too.
_LOOK_EVERY = 20

# A backward pass costs about two forward passes: gradients of the inputs and of the weights.
TRAINING_PASSES = 3

_METRICS = {'accuracy': 'MulticlassAccuracy', 'top5': 'MulticlassTop5Accuracy', 'cross_entropy': 'CrossEntropy'}
# Evaluator label, metric -> the key in a line. The training accuracies, running and clean, are never mixed up.
_KEYS = {
    **{(label, metric): f'{label}_{metric}' for label in ('val', 'test') for metric in _METRICS},
    **{('train_clean', metric): f'train_{metric}_clean' for metric in ('accuracy', 'cross_entropy')},
}


class Measures(Callback):
    """Count what a run reaches and what it costs, and write one line an epoch.

    Running train accuracy is counted over the whole epoch, as augmented, while the weights change; clean train accuracy
    is that of the evaluator called ``train_clean``: eval mode, not augmented, after the epoch. Training seconds run
    from before a batch is fetched to the end of its step, teachers and attacks inside, and while adversarial examples
    are told to other ranks or written; evaluation and checkpoints are apart. Counts are kept in the checkpoint, so a
    run that was interrupted inside an epoch ends with the lines of one that was not.

    A step reads nothing from the device and sends nothing to it, so it does not hold up a GPU. (Composer waits for the
    loss of each step before ``BATCH_END``: the clock there has seen the step's work.)

    Args:
        write: Called on rank 0 with each line, a dict of plain numbers.
        rewind: Called on rank 0 with the number of epochs whose lines stand: when the training starts (what was written
            of later epochs is from before an interruption), and before the last line is written again, if Composer
            evaluates once more after the training's end.
        count_runs: How many runs share the machine now.
    """

    def __init__(
        self,
        write: Callable[[dict[str, Any]], None],
        rewind: Callable[[int], None] = lambda epoch: None,
        count_runs: Callable[[], int] = lambda: 1,
    ):
        self._write = write
        self._rewind = rewind
        self._count_runs = count_runs
        self._tallies = EpochTotals()
        self._evaluations: dict[str, float] = {}
        self._costs: dict[tuple[Any, ...], int] = {}
        self._distillation: Distillation | None = None
        self._attacks = AttackCosts()
        self._seconds_seen = 0.0
        self._taught_seen: list[int] = []
        self._recorded_seen: list[int] = []
        self._fetched = self._evaluated = 0.0
        self._ended = False
        self._written: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._labels: Tensor | None = None
        self._pass: list[_Counted] = []
        self._taken: list[_Counted] | None = None
        self._student_cost = 0.0
        self._steps = StepCounts()
        self._said: list[dict[str, float]] = []  # What distillation and examples said of each of these steps.

    # -- a step ---------------------------------------------------------------------------------------------------

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self._rewind(int(state.timestamp.epoch))
        self._ended = False
        self._distillation = next((one for one in state.algorithms if isinstance(one, Distillation)), None)
        if self._distillation is not None:
            self._seconds_seen = self._distillation.teacher_seconds
            self._taught_seen = list(self._distillation.images_taught)
            self._recorded_seen = list(self._distillation.images_recorded)
        self._attacks.start(state)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        # Batches that a resumed run skips come by here too; only one that is trained reaches BATCH_END.
        self._fetched = time.perf_counter()

    def batch_start(self, state: State, logger: Logger) -> None:
        self._taken = None
        self._student_cost = 0.0

    def before_train_batch(self, state: State, logger: Logger) -> None:
        # SAM, and a retry after running out of memory, pass twice: the first pass that ends is the step's.
        self._pass = []

    def before_forward(self, state: State, logger: Logger) -> None:
        self._labels = labels_of(state.batch)

    def before_backward(self, state: State, logger: Logger) -> None:
        logits = logits_of(state.outputs, 'the student').detach()
        samples, labelled = len(logits), 0
        loss = total_of(state.loss).detach().double() * samples
        correct = torch.zeros_like(loss)
        if self._labels is not None:
            labelled, correct = samples, (logits.argmax(dim=1) == self._labels).sum().double()
        self._pass.append(_Counted(samples, labelled, torch.stack([correct, loss])))
        self._student_cost += TRAINING_PASSES * samples * self._cost_of_a_sample(state)

    def after_train_batch(self, state: State, logger: Logger) -> None:
        if self._taken is None:
            self._taken = self._pass

    def batch_end(self, state: State, logger: Logger) -> None:
        parts = self._taken or self._pass
        self._steps.add(
            torch.stack([part.sums for part in parts]).sum(dim=0),
            (
                sum(part.samples for part in parts),
                sum(part.labelled for part in parts),
                self._student_cost,
                self._new_teacher_cost(state),
                *self._newly_recorded(state),
                *self._attacks.images(self._cost_of_a_sample(state)),
            ),
        )
        self._said.append({**(self._distillation.last_step if self._distillation else {}), **self._attacks.said()})
        self._tallies.add_seconds(train=time.perf_counter() - self._fetched)
        if len(self._steps) == _LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        """Enter what the last steps have counted; all ranks come here together."""
        if len(self._steps):
            self._enter_steps()
        # An epoch's end comes after its last step: examples are told to other ranks there, and written.
        in_steps, between = self._attacks.seconds()
        self._tallies.add_seconds(train=between, attack=in_steps + between)

    def _enter_steps(self) -> None:
        steps, self._said = self._said, []
        begun = time.perf_counter()
        rows = self._steps.take()
        # On a GPU the host has run ahead: what it waits here is time of these steps.
        self._tallies.add_seconds(train=time.perf_counter() - begun)
        for row, said in zip(rows, steps, strict=True):
            self._tallies.add_step(row, said)
        self._tallies.add_seconds(teacher=self._new_teacher_seconds())
        self._tallies.note_runs(self._count_runs())

    def _new_teacher_seconds(self) -> float:
        """Since the last time. On a GPU this waits for the teachers' work."""
        before = self._seconds_seen
        if self._distillation is not None:
            self._seconds_seen = self._distillation.teacher_seconds
        return self._seconds_seen - before

    def _new_teacher_cost(self, state: State) -> int:
        """Multiply-adds of the teachers since the last time, on this rank."""
        before = self._taught_seen
        self._taught_seen = list(self._distillation.images_taught if self._distillation else ())
        return self._cost_of_new(before, self._taught_seen, state)

    def _newly_recorded(self, state: State) -> tuple[int, int]:
        """Outputs that were looked up since the last time, and multiply-adds that computing them would have cost."""
        before = self._recorded_seen
        self._recorded_seen = list(self._distillation.images_recorded if self._distillation else ())
        return sum(self._recorded_seen) - sum(before), self._cost_of_new(before, self._recorded_seen, state)

    def _cost_of_new(self, before: list[int], now: list[int], state: State) -> int:
        new = [later - earlier for earlier, later in zip(before or [0] * len(now), now, strict=True)]
        return sum(count * self._cost_of_a_sample(state, number) for number, count in enumerate(new) if count)

    # -- evaluation -----------------------------------------------------------------------------------------------

    def eval_before_all(self, state: State, logger: Logger) -> None:
        self._look()  # What teachers do from now on belongs to the evaluation.
        self._evaluated = time.perf_counter()

    def eval_end(self, state: State, logger: Logger) -> None:
        label = state.dataloader_label or ''
        for name, metric in (state.eval_metrics.get(label) or {}).items():
            for short, long in _METRICS.items():
                if name == long and (label, short) in _KEYS:
                    self._evaluations[_KEYS[label, short]] = float(metric.compute())

    def eval_after_all(self, state: State, logger: Logger) -> None:
        # What 'until overtaken' asks of the teachers during an evaluation is a cost of the method, not of evaluating.
        teacher = self._new_teacher_seconds()
        self._tallies.add_teacher_cost(self._new_teacher_cost(state) * dist.get_world_size())
        evaluation = time.perf_counter() - self._evaluated - teacher
        self._tallies.add_seconds(train=teacher, teacher=teacher, evaluation=evaluation)
        if self._ended:
            self._complete_last_line(state)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        self._end_epoch(state, int(state.timestamp.epoch))

    def fit_end(self, state: State, logger: Logger) -> None:
        self._look()
        if self._tallies.samples:  # A duration in batches may end inside an epoch.
            self._end_epoch(state, int(state.timestamp.epoch) + 1)
        # Composer evaluates once more after this event, unless it has after the last batch.
        self._ended = True

    def eval_standalone_start(self, state: State, logger: Logger) -> None:
        self._ended = False

    # -- the line -------------------------------------------------------------------------------------------------

    def _end_epoch(self, state: State, epoch: int) -> None:
        self._look()
        if dist.get_global_rank() == 0:
            self._write(self._line(state, epoch))
        self._written = (epoch, self._tallies.end_epoch(), self._evaluations)
        self._evaluations = {}

    def _complete_last_line(self, state: State) -> None:
        if self._written is None:
            return
        epoch, sums, evaluations = self._written
        self._tallies.reopen(sums)
        self._evaluations = evaluations | self._evaluations
        if dist.get_global_rank() == 0:
            self._rewind(epoch - 1)
        self._end_epoch(state, epoch)

    def _line(self, state: State, epoch: int) -> dict[str, Any]:
        algorithm = self._distillation
        accuracies = [
            correct / counted
            for correct, counted in zip(algorithm.checks.correct, algorithm.checks.counted, strict=True)
            if counted
        ] if algorithm else []  # fmt: skip
        return {
            'epoch': epoch,
            'batch': int(state.timestamp.batch),
            **self._tallies.line(
                {key: self._evaluations.get(key) for key in _KEYS.values()},
                learning_rate=state.optimizers[0].param_groups[0]['lr'],
                distilled=algorithm is not None,
                teacher_accuracy=sum(accuracies) / len(accuracies) if accuracies else None,
            ),
            'world_size': dist.get_world_size(),
            'device': state.device.name,
        }

    # -- parts ----------------------------------------------------------------------------------------------------

    def _cost_of_a_sample(self, state: State, teacher: int | None = None) -> int:
        """Multiply-adds of one forward pass, of the student or of a teacher; counted once a shape."""
        shape = tuple(input_of(state.batch).shape[1:]) if isinstance(state.batch, list | tuple) else ()
        if (teacher, shape) not in self._costs:
            if teacher is not None and self._distillation is not None:
                self._costs[teacher, shape] = self._distillation.teachers[teacher].multiply_adds(shape)
            else:
                student = plain(state.model)
                countable = shape and not isinstance(student, ComposerModel)
                self._costs[teacher, shape] = multiply_adds(student, shape) if countable else 0
        return self._costs[teacher, shape]

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._look()
        return {**self._tallies.state_dict(), 'evaluations': dict(self._evaluations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._tallies.load_state_dict(state)
        self._evaluations = dict(state['evaluations'])


class _Counted(NamedTuple):
    """A microbatch: its samples, those of them with hard labels, and on the device right answers and summed loss."""

    samples: int
    labelled: int
    sums: Tensor
