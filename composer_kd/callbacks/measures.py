"""Measure a run, one line an epoch: accuracies, losses, seconds and multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor

from composer_kd.callbacks.cost_meter import CostMeter
from composer_kd.callbacks.epoch_totals import EpochTotals, StepCounts
from composer_kd.models.batch import labels_of, logits_of, total_loss

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
        self._totals = EpochTotals()
        self._evaluations: dict[str, float] = {}
        self._meter = CostMeter()
        self._fetched = self._evaluated = 0.0
        self._ended = False
        self._written: tuple[int, dict[str, float], dict[str, float]] | None = None
        self._labels: Tensor | None = None
        self._pass: list[_Counted] = []
        self._taken: list[_Counted] | None = None
        self._student_cost = 0.0
        self._steps = StepCounts()
        self._metrics: list[dict[str, float]] = []  # What algorithms logged of each of these steps.

    # -- a step ---------------------------------------------------------------------------------------------------

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self._rewind(int(state.timestamp.epoch))
        self._ended = False
        self._meter.start(state)

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
        loss = total_loss(state.loss).detach().double() * samples
        correct = torch.zeros_like(loss)
        if self._labels is not None:
            labelled, correct = samples, (logits.argmax(dim=1) == self._labels).sum().double()
        self._pass.append(_Counted(samples, labelled, torch.stack([correct, loss])))
        self._student_cost += TRAINING_PASSES * samples * self._meter.of_a_sample(state)

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
                *self._meter.work(state).values(),
            ),
        )
        self._metrics.append(self._meter.last_metrics())
        self._totals.add_seconds(train=time.perf_counter() - self._fetched)
        if len(self._steps) == _LOOK_EVERY:
            self._look()

    def _look(self) -> None:
        """Enter what the last steps have counted; all ranks come here together."""
        if len(self._steps):
            self._enter_steps()
        # An epoch's end comes after its last step: examples are told to other ranks there, and written.
        for kind, (in_steps, between) in self._meter.seconds().items():
            self._totals.add_seconds(train=between, **{kind: in_steps + between})

    def _enter_steps(self) -> None:
        steps, self._metrics = self._metrics, []
        begun = time.perf_counter()
        rows = self._steps.take()
        # On a GPU the host has run ahead: what it waits here is time of these steps.
        self._totals.add_seconds(train=time.perf_counter() - begun)
        for row, metrics in zip(rows, steps, strict=True):
            self._totals.add_step(row, metrics)
        self._totals.note_runs(self._count_runs())

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
        # What 'until overtaken' computes with teachers during an evaluation is a cost of the method, not of evaluating.
        self._totals.add_work(self._meter.work(state), dist.get_world_size())
        seconds = {kind: sum(both) for kind, both in self._meter.seconds().items()}
        method = sum(seconds.values())
        self._totals.add_seconds(train=method, eval=time.perf_counter() - self._evaluated - method, **seconds)
        if self._ended:
            self._complete_last_line(state)

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        self._end_epoch(state, int(state.timestamp.epoch))

    def fit_end(self, state: State, logger: Logger) -> None:
        self._look()
        if self._totals.samples:  # A duration in batches may end inside an epoch.
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
        self._written = (epoch, self._totals.end_epoch(), self._evaluations)
        self._evaluations = {}

    def _complete_last_line(self, state: State) -> None:
        if self._written is None:
            return
        epoch, sums, evaluations = self._written
        self._totals.reopen(sums)
        self._evaluations = evaluations | self._evaluations
        if dist.get_global_rank() == 0:
            self._rewind(epoch - 1)
        self._end_epoch(state, epoch)

    def _line(self, state: State, epoch: int) -> dict[str, Any]:
        return {
            'epoch': epoch,
            'batch': int(state.timestamp.batch),
            **self._totals.line(
                {key: self._evaluations.get(key) for key in _KEYS.values()},
                learning_rate=state.optimizers[0].param_groups[0]['lr'],
                teacher_accuracy=self._meter.teacher_accuracy,
            ),
            'world_size': dist.get_world_size(),
            'device': state.device.name,
        }

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._look()
        return {**self._totals.state_dict(), 'evaluations': dict(self._evaluations)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._totals.load_state_dict(state)
        self._evaluations = dict(state['evaluations'])


class _Counted(NamedTuple):
    """A microbatch: its samples, those of them with hard labels, and on the device right answers and summed loss."""

    samples: int
    labelled: int
    sums: Tensor
