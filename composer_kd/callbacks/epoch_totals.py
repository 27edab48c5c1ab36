"""Add up the numbers of steps to those of an epoch's line and of the training so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.utils import dist
from torch import Tensor

from composer_kd.callbacks.cost_meter import WORK

__all__ = ['EpochTotals', 'StepCounts']

# The numbers of a step, as they are summed over ranks: those of the epoch's line, and those of the whole training.
_OF_EPOCH = ('correct', 'loss', 'samples', 'labelled')
_OF_TRAINING = ('student', *WORK)
_SECONDS = ('train', 'teacher', 'attack', 'other', 'eval')


class EpochTotals:
    """Sums of the epoch under way and of the whole training."""

    def __init__(self) -> None:
        self._totals = dict.fromkeys((*(f'seconds_{name}' for name in _SECONDS), *_OF_TRAINING), 0.0)
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._epoch: dict[str, float] = dict.fromkeys(
            ('samples', 'labelled', 'correct', 'loss', 'seconds_train', 'seconds_teacher', 'seconds_attack',
             'seconds_other', 'seconds_eval', 'runs', 'parted', 'label', 'distill', 'agreement', 'weight', 'batches',
             'taught', 'compared', 'temperature', 'shown', 'adversarial_loss', 'adversarial_success'),
            0.0,
        )  # fmt: skip

    @property
    def samples(self) -> int:
        """How many the epoch under way has had."""
        return int(self._epoch['samples'])

    # -- adding ---------------------------------------------------------------------------------------------------

    def add_step(self, row: Sequence[float], metrics: Mapping[str, float]) -> None:
        """Add a step.

        Args:
            row: Its right answers, summed loss, samples and labelled samples; multiply-adds of the student and of the
                teachers; outputs looked up and the multiply-adds that they saved; multiply-adds of attacks, images
                attacked and replayed. Over all ranks.
            metrics: What algorithms logged of it.
        """
        for name, value in zip(_OF_EPOCH, row, strict=False):
            self._epoch[name] += value
        for name, value in zip(_OF_TRAINING, row[len(_OF_EPOCH) :], strict=True):
            self._totals[name] += value
        samples = row[_OF_EPOCH.index('samples')]
        self._add_distillation(metrics, samples)
        self._add_examples(metrics, samples)
        self._epoch['batches'] += 1

    def _add_distillation(self, metrics: Mapping[str, float], samples: float) -> None:
        if 'loss/train/label' not in metrics:
            return
        epoch = self._epoch
        epoch['label'] += metrics['loss/train/label'] * samples
        epoch['parted'] += 1
        epoch['weight'] += metrics.get('distill/weight', 0.0)
        if 'loss/train/distill' in metrics:
            epoch['distill'] += metrics['loss/train/distill'] * samples
            # Samples without a target of their own have no agreement, and are not distilled from: their label teaches.
            compared = samples * (1 - metrics.get('distill/label_only', 0.0))
            epoch['agreement'] += metrics.get('distill/agreement', 0.0) * compared
            epoch['compared'] += compared
            epoch['taught'] += samples
            epoch['temperature'] += metrics.get('distill/temperature', 0.0) * samples

    def _add_examples(self, metrics: Mapping[str, float], samples: float) -> None:
        if 'adversarial/loss' not in metrics:
            return
        shown = samples * (metrics['adversarial/attacked'] + metrics['adversarial/replayed'])
        self._epoch['shown'] += shown
        for name in ('loss', 'success'):
            self._epoch[f'adversarial_{name}'] += metrics[f'adversarial/{name}'] * shown

    def add_seconds(self, **seconds: float) -> None:
        """Add seconds of training, of an evaluation, or of a kind of cost."""
        for name, value in seconds.items():
            self._epoch[f'seconds_{name}'] += value
            self._totals[f'seconds_{name}'] += value

    def add_work(self, work: Mapping[str, float], ranks: int) -> None:
        """Add what algorithms computed outside a step, on each of so many ranks."""
        for name, value in work.items():
            self._totals[name] += value * ranks

    def note_runs(self, count: int) -> None:
        """Note how many runs share the machine; an epoch keeps the most."""
        self._epoch['runs'] = max(self._epoch['runs'], count)

    # -- an epoch's end -------------------------------------------------------------------------------------------

    def end_epoch(self) -> dict[str, float]:
        """Begin the next one; the sums of the one that ended, for :meth:`reopen`."""
        ended = self._epoch
        self._start_epoch()
        return ended

    def reopen(self, epoch: dict[str, float]) -> None:
        """Go on with an epoch that had ended: the seconds since then are its own."""
        for name in (f'seconds_{name}' for name in _SECONDS):
            epoch[name] += self._epoch[name]
        self._epoch = epoch

    def line(
        self,
        evaluations: Mapping[str, float | None],
        learning_rate: float,
        teacher_accuracy: float | None,
    ) -> dict[str, Any]:
        """The epoch's numbers, and the training's so far.

        Args:
            evaluations: The accuracies and losses of the epoch's evaluation.
            learning_rate: The last one.
            teacher_accuracy: Theirs on the first batches, averaged.
        """
        sums, totals = self._epoch, self._totals
        samples, batches, taught = max(sums['samples'], 1), max(sums['batches'], 1), sums['taught']
        compared, distilled = sums['compared'], sums['parted'] > 0
        return {
            'samples': int(sums['samples']),
            'train_accuracy_running': sums['correct'] / sums['labelled'] if sums['labelled'] else None,
            **evaluations,
            'loss_total': sums['loss'] / samples,
            'loss_label': (sums['label'] if distilled else sums['loss']) / samples,
            'loss_distill': sums['distill'] / taught if taught else None,
            'agreement': sums['agreement'] / compared if compared else None,
            'label_only': 1 - compared / taught if taught else None,
            'temperature': sums['temperature'] / taught if sums['temperature'] else None,
            'teacher_accuracy': teacher_accuracy,
            'kd_weight': sums['weight'] / batches if distilled else None,
            'adversarial_loss': sums['adversarial_loss'] / sums['shown'] if sums['shown'] else None,
            'adversarial_success': sums['adversarial_success'] / sums['shown'] if sums['shown'] else None,
            'learning_rate': learning_rate,
            'seconds_train': sums['seconds_train'],
            'seconds_teacher': sums['seconds_teacher'],
            'seconds_attack': sums['seconds_attack'],
            'seconds_other': sums['seconds_other'],
            'seconds_eval': sums['seconds_eval'],
            'seconds_train_total': totals['seconds_train'],
            'seconds_teacher_total': totals['seconds_teacher'],
            'seconds_attack_total': totals['seconds_attack'],
            'seconds_other_total': totals['seconds_other'],
            'seconds_eval_total': totals['seconds_eval'],
            'multiply_adds_student_total': totals['student'],
            'multiply_adds_teacher_total': totals['teacher'],
            'multiply_adds_attack_total': totals['attack'],
            'multiply_adds_other_total': totals['other'],
            'multiply_adds_teacher_saved_total': totals['saved'],
            'images_recorded_total': int(totals['recorded']),
            'images_attacked_total': int(totals['attacked']),
            'images_replayed_total': int(totals['replayed']),
            'images_per_second': sums['samples'] / sums['seconds_train'] if sums['seconds_train'] else None,
            'runs_beside': int(max(sums['runs'], 1)),
        }

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {'totals': dict(self._totals), 'epoch': dict(self._epoch)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._totals.update(state['totals'])
        epoch = state['epoch']
        self._epoch.update({'compared': epoch['taught'], **epoch})  # Before it was counted, every sample was compared.


class StepCounts:
    """A row of numbers for each step, read back and summed over ranks for many steps at once.

    Whoever reads a number from a GPU in every step makes the host wait for it in every step, and a GPU that has been
    waited for then waits for the host.
    """

    def __init__(self) -> None:
        self._counted: list[Tensor] = []
        self._known: list[list[float]] = []

    def __len__(self) -> int:
        return len(self._known)

    def add(self, counted: Tensor, known: Sequence[float]) -> None:
        """Enter a step of this rank.

        Args:
            counted: float64 ``[n]``, on the device.
            known: Numbers that the host has.
        """
        self._counted.append(counted)
        self._known.append([float(number) for number in known])

    def take(self) -> list[list[float]]:
        """The rows since the last time, ``counted`` before ``known``, over all ranks, which take them together."""
        if not self._known:
            return []
        counted = torch.stack(self._counted)
        rows = torch.cat([counted, torch.tensor(self._known, dtype=torch.float64).to(counted.device)], dim=1)
        self._counted, self._known = [], []
        dist.all_reduce(rows, reduce_operation='SUM')
        return rows.tolist()
