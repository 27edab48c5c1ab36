"""Core Robustness class."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from composer.core import Callback, Evaluator, State
from composer.loggers import Logger
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.algorithms.adversarial_recycling.attack import Attack, attackable
from composer_kd.core.errors import UserError, nearest
from composer_kd.core.options import check_keys, whole_number
from composer_kd.data.dataset import KeyedImages
from composer_kd.functional.attacks import normalised
from composer_kd.functional.counter import counter_hash
from composer_kd.models import multiply_adds, plain
from composer_kd.models.weights import share_buffers
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.storage.jsonl import append_line, read_lines, rewrite_lines
from composer_kd.teachers.record import Inference

__all__ = [
    'ATTACKS_FILE',
    'AttackCounts',
    'Attacker',
    'EvaluateAttacks',
    'asked',
    'chosen_rows',
    'make_attack',
    'under_attack',
    'what_is_left',
]

ATTACKS_FILE = 'attacks.jsonl'

_DEFAULTS: dict[str, Any] = {'epsilon': None, 'steps': 20, 'step_size': None, 'norm': 'linf', 'targeted': False}


def make_attack(options: Mapping[str, Any]) -> Attack:
    """The attack of an evaluation: PGD-20 (in ``linf`` with an epsilon of 8 and steps of 2), but for the options."""
    check_keys(options, _DEFAULTS, '')
    return Attack.checked(**{**_DEFAULTS, **options})


class EvaluateAttacks(Callback):
    """Measure the accuracy under attack on held-out samples, at the end of a training and on its way.

    The attacks are projected gradient descent from a random start, which is the same at every time; the model is in
    evaluation mode and in the precision of the training. A sample counts as robust that the model gets right both as it
    is and under the attack. ``attacks.jsonl`` in the run directory gets a line for each time, split and attack:
    ``epoch``, ``batch``, ``split``, ``subset``, ``samples``, the attack's ``epsilon``, ``steps``, ``step_size``,
    ``norm`` and ``targeted``, ``accuracy``, ``robust_accuracy``, ``seconds`` and ``multiply_adds``; also logged as
    ``metrics/SPLIT/robust_accuracy``, with a number for the second and later attacks. None of it counts as training.

    Args:
        folder: The run directory, which need not exist. One of a YAML's runs, or any folder for a Trainer of your own.
        attacks: Options of each attack: ``epsilon`` (8; 128 in ``l2``), ``steps`` (20), ``step_size`` (a quarter of
            epsilon, 1.25 times epsilon for a single step), ``norm`` (``'linf'``) and ``targeted``; ``None`` is PGD-20
            as it stands in brackets. Default: ``None``.
        splits: The labels of the evaluators whose data is attacked; ``None``: of all but ``train_clean``.
            Default: ``None``.
        interval: Also at the end of every so many epochs, as ``'5ep'``; ``None``: at the end of the training alone.
            Default: ``None``.
        interval_subset: How many samples then; the end of the training is measured on these as well, so that the way
            leads to it. ``None``: as many as at the end. Default: ``None``.
        interval_attacks: How many of the attacks then, the first ones; ``None``: all. Default: ``None``.
        subset: How many samples of a split, always the same ones; ``None`` takes all. Default: ``1000``.
        batch_size: Images that a rank attacks at a time. Default: ``250``.

    Example:
        .. testcode::

            from composer import Trainer
            from composer_kd import EvaluateAttacks
            trainer = Trainer(
                model=model,
                train_dataloader=train_dataloader,
                eval_dataloader=eval_dataloader,
                max_duration='2ep',
                callbacks=[EvaluateAttacks('runs/mine', attacks=[{'steps': 20}, {'norm': 'l2', 'epsilon': 128}])],
            )
            trainer.fit()
    """

    def __init__(
        self,
        folder: str | Path,
        attacks: Sequence[Mapping[str, Any]] | None = None,
        splits: Sequence[str] | None = None,
        interval: str | None = None,
        interval_subset: int | None = None,
        interval_attacks: int | None = None,
        subset: int | None = 1000,
        batch_size: int = 250,
    ):
        if interval is not None and not re.fullmatch(r'[1-9]\d*ep', str(interval)):
            raise UserError(f"{type(self).__name__}: interval is in epochs, as '5ep'; got {interval!r}")
        on_the_way = {'interval_subset': interval_subset, 'interval_attacks': interval_attacks}
        for name, value in {**on_the_way, 'subset': subset, 'batch_size': batch_size}.items():
            if value is not None:
                whole_number(value, f'{type(self).__name__}: {name}')
            if value is not None and interval is None and name in on_the_way:
                raise UserError(f'{type(self).__name__}: {name} is of what is measured on the way; give interval too')
        if attacks is not None and not attacks:
            raise UserError(f'{type(self).__name__}: attacks is empty; give one, or leave it out for PGD-20')
        self.file = Path(folder) / ATTACKS_FILE
        self.attacks = [make_attack(one) for one in ([{}] if attacks is None else attacks)]
        self.splits = None if splits is None else tuple(splits)
        self.interval = None if interval is None else int(interval.removesuffix('ep'))
        self.batch_size = batch_size
        self._on_the_way, self._at_the_end = asked(self.attacks, subset, interval_subset, interval_attacks)
        self._done: set[tuple[int, Attack, int | None]] = set()
        """What was measured: after how many batches, by what, on how many samples."""

    def fit_start(self, state: State, logger: Logger) -> None:
        if not self._evaluated(state):
            raise UserError(
                f'{type(self).__name__}: the Trainer has no evaluator to attack the data of; give eval_dataloader'
            )
        # What was measured after the checkpoint that the training goes on from is of other weights.
        on_rank_zero(lambda: self._keep(int(state.timestamp.batch)))

    def _keep(self, batch: int) -> None:
        lines = read_lines(self.file)
        kept = [line for line in lines if batch and line.get('batch', 0) <= batch]
        if len(kept) < len(lines):
            rewrite_lines(self.file, kept)

    def epoch_end(self, state: State, logger: Logger) -> None:
        # The last epoch is left to the end of the training: averaged weights are in place by then, and are saved.
        at_the_end = state.max_duration is not None and state.timestamp >= state.max_duration
        if self.interval is not None and int(state.timestamp.epoch) % self.interval == 0 and not at_the_end:
            self._measure(state, logger, self._on_the_way)

    def fit_end(self, state: State, logger: Logger) -> None:
        # A training that was stopped early may have measured its last batch on the way: with less than the end asks.
        self._measure(state, logger, self._at_the_end)

    def _evaluated(self, state: State) -> list[tuple[str, KeyedImages]]:
        """The splits that are attacked, and their data."""
        labels = [evaluator.label for evaluator in state.evaluators]
        for split in self.splits or ():
            if split not in labels:
                raise UserError(
                    f'{type(self).__name__}: {split!r} is no evaluator of this Trainer; {nearest(split, labels)}'
                )
        wanted = self.splits if self.splits is not None else [label for label in labels if label != 'train_clean']
        return [(one.label, self._data_of(one)) for one in state.evaluators if one.label in wanted]

    def _data_of(self, evaluator: Evaluator) -> KeyedImages:
        dataset: Any = getattr(evaluator.dataloader.dataloader, 'dataset', None)
        if not isinstance(dataset, KeyedImages):
            raise UserError(
                f'{type(self).__name__}: the data of the evaluator {evaluator.label!r} is a {type(dataset).__name__}, '
                f'whose pixels are not known; use data out of shards (composer-kd convert, composer_kd.data.open_data)'
            )
        return dataset

    def _measure(self, state: State, logger: Logger, wanted: Sequence[tuple[Attack, int | None]]) -> None:
        batch = int(state.timestamp.batch)
        left = [
            (number, attack, subset)
            for number, (attack, subset) in enumerate(wanted)
            if (batch, attack, subset) not in self._done
        ]
        self._done |= {(batch, attack, subset) for _, attack, subset in left}
        if not left:
            return
        share_buffers(state.model)  # What is measured is what is saved.
        for split, dataset in self._evaluated(state):
            for number, attack, subset in left:
                line = {
                    'epoch': int(state.timestamp.epoch),
                    'batch': int(state.timestamp.batch),
                    'split': split,
                    'subset': subset,
                    **what_is_left(state, dataset, chosen_rows(dataset, subset), attack, self.batch_size),
                }
                if number < len(self.attacks):
                    logger.log_metrics({f'metrics/{split}/robust_accuracy{number or ""}': line['robust_accuracy']})
                on_rank_zero(partial(append_line, self.file, line))


def asked(
    attacks: Sequence[Attack], subset: int | None, interval_subset: int | None, interval_attacks: int | None
) -> tuple[list[tuple[Attack, int | None]], list[tuple[Attack, int | None]]]:
    """Attacks and how many samples each is made on: on the way, and at the end; the arguments are the callback's."""
    at_the_end: list[tuple[Attack, int | None]] = [(attack, subset) for attack in attacks]
    if interval_subset is None or interval_subset == subset:
        return at_the_end[:interval_attacks], at_the_end
    on_the_way: list[tuple[Attack, int | None]] = [(attack, interval_subset) for attack in attacks[:interval_attacks]]
    return on_the_way, at_the_end + on_the_way


def what_is_left(
    state: State | Inference, dataset: KeyedImages, rows: NDArray[np.int64], attack: Attack, batch_size: int
) -> dict[str, Any]:
    """What a line of the file says of one split and one attack; ranks come here together.

    Args:
        state: The Trainer's, or what stands for it: a model on its device, and its precision.
        dataset: Whose samples.
        rows: Which.
        attack: With what.
        batch_size: Images at a time.
    """
    begun = time.perf_counter()
    with attackable(state) as student:

        def attacker(images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
            return attack.on(student, images, labels, ids, dataset.num_classes, dataset.normalization)

        device = next(state.model.parameters()).device
        found = under_attack(student, dataset, rows, attacker, device, batch_size)
    passes = (attack.passes + 2) * found.samples  # And one to look at the image, and at what became of it.
    return {
        'samples': found.samples,
        **{name: value for name, value in asdict(attack).items() if name in _DEFAULTS},
        'accuracy': found.accuracy,
        'robust_accuracy': found.robust_accuracy,
        'seconds': time.perf_counter() - begun,
        'multiply_adds': passes * multiply_adds(plain(state.model), dataset.info.shape),
        'world_size': dist.get_world_size(),
    }


# Goes into the hash that chooses a subset.
_VERSION = 1


class Attacker(Protocol):
    """From images to adversarial ones: our attacks, or another library's."""

    def __call__(self, images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        """Float pixels from 0 to 255 in and out."""
        ...


@dataclass(frozen=True)
class AttackCounts:
    """Counts over all ranks.

    Attributes:
        samples: How many were shown.
        right: How many of them the model gets right as they are.
        robust: How many of those it still does under the attack; an attacker may also leave an image alone.
    """

    samples: int
    right: int
    robust: int

    @property
    def accuracy(self) -> float:
        return self.right / self.samples

    @property
    def robust_accuracy(self) -> float:
        return self.robust / self.samples


def chosen_rows(dataset: KeyedImages, subset: int | None) -> NDArray[np.int64]:
    """The rows that are shown: all, or as many as ``subset`` with the lowest hashes of their ids, always the same."""
    hashes = counter_hash(_VERSION, torch.from_numpy(dataset.ids)).numpy()
    return np.sort(np.argsort(hashes, kind='stable')[:subset])


def under_attack(
    model: Callable[[Tensor], Tensor],
    dataset: KeyedImages,
    rows: NDArray[np.int64],
    attacker: Attacker,
    device: torch.device,
    batch_size: int,
) -> AttackCounts:
    """Show samples as they are stored and as the attacker makes them; ranks share the work and come here together.

    Args:
        model: From normalised images to logits, in evaluation mode.
        dataset: Whose samples.
        rows: Which.
        attacker: Makes the adversarial images.
        device: Where.
        batch_size: Images at a time.
    """
    counts = torch.zeros(3, dtype=torch.float64, device=device)
    mine = rows[dist.get_global_rank() :: dist.get_world_size()]
    for first in range(0, len(mine), batch_size):
        chosen = mine[first : first + batch_size]
        images = dataset.images(torch.from_numpy(chosen)).to(device).float()
        labels, ids = (torch.from_numpy(column[chosen]).to(device) for column in (dataset.labels, dataset.ids))
        try:
            adversarial = attacker(images, labels, ids)
            right, robust = (_right(model, one, labels, dataset) for one in (images, adversarial))
        except torch.OutOfMemoryError as error:
            raise UserError(
                f'the device has no memory to attack {batch_size} images at a time; lower batch_size'
            ) from error
        counts += torch.stack([torch.ones_like(right), right, right & robust]).sum(dim=1)
    dist.all_reduce(counts, reduce_operation='SUM')
    return AttackCounts(*(int(count) for count in counts.tolist()))


def _right(model: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor, dataset: KeyedImages) -> Tensor:
    with torch.no_grad():
        return model(normalised(pixels, dataset.normalization)).argmax(dim=1) == labels
