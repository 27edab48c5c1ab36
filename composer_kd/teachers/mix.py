"""How the outputs of several teachers become one target.

A mix is a small frozen object: it says which teachers a step has to ask, and combines their logits. A new one is a
class here and a row in :data:`MIXES`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.options import instantiate, number, one_of
from composer_kd.core.registry import Registry
from composer_kd.functional.counter import counter_hash
from composer_kd.functional.mixing import (
    confidence_weights,
    dirichlet_weights,
    mix_outputs,
    oracle_mix,
    permute_dark_knowledge,
)

__all__ = [
    'MIXES',
    'Confidence',
    'Dirichlet',
    'Mix',
    'MixContext',
    'Oracle',
    'Permuted',
    'RandomOne',
    'Uniform',
    'Weights',
    'make_mix',
]

MIXES: Registry[Callable[..., Mix]] = Registry('mixes')


@dataclass(frozen=True)
class MixContext:
    """What a mix may look at: where the training is, and which samples the outputs belong to.

    Args:
        seed: The run's seed.
        batch: The number of the batch.
        ids: One int64 id a sample: its sample id where the batch carries keys, else its place in the batch.
        labels: The hard labels, where the batch has them.
        known: Which outputs are known, ``[K, B]``, where recorded teachers lack some; ``None``: all.
    """

    seed: int
    batch: int
    ids: Tensor
    labels: Tensor | None = None
    known: Tensor | None = None


class Mix:
    """How K teachers' logits become one target's."""

    leaves_some_to_labels: ClassVar[bool] = False
    """Whether samples may be left without a target although all teachers are known."""

    def check(self, teachers: int) -> None:
        """Refuse, in one line, a number of teachers that the mix cannot serve."""

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse, in one line, batches without hard labels where the mix needs them."""

    def selected(self, teachers: int, step: MixContext) -> Sequence[int]:
        """The numbers of the teachers that this step needs; the others do not run."""
        return range(teachers)

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        """The target ``[B, C]`` of the logits ``[K, B, C]`` of the teachers that were asked."""
        raise NotImplementedError

    def mask(self, outputs: Tensor, step: MixContext) -> Tensor | None:
        """Which samples have a target, ``[B]``; the others are taught by their label alone. ``None``: all have.

        A mix needs all its teachers' outputs, unless it says otherwise.
        """
        return None if step.known is None else step.known.all(dim=0)

    def target_and_mask(self, outputs: Tensor, step: MixContext) -> tuple[Tensor, Tensor | None]:
        """The target, and which samples have one: both at once, where they are made of the same."""
        return self(outputs, step), self.mask(outputs, step)

    def expected(self, outputs: Tensor) -> Tensor:
        """The target without chance, for evaluation: ``[B, C]`` of all teachers' logits ``[K, B, C]``."""
        return outputs.mean(dim=0)


@MIXES.register('uniform', "the average of all teachers' logits")
@dataclass(frozen=True)
class Uniform(Mix):
    """The average of all teachers' logits."""

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        return outputs.mean(dim=0)


@MIXES.register('weights', 'a fixed linear combination; also written as a plain list of numbers')
@dataclass(frozen=True)
class Weights(Mix):
    """A fixed linear combination of the teachers' logits.

    Args:
        weights: One number a teacher, not negative. They are used as they are: a sum other than 1 scales the target.
    """

    weights: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, 'weights', tuple(self.weights))
        for weight in self.weights:
            number(weight, 'mix: weights', least=0)
        if not sum(self.weights) > 0:
            raise UserError(f'mix: at least one weight must be above 0, got {list(self.weights)}')
        if abs(sum(self.weights) - 1) > 1e-3:
            warnings.warn(
                f'mix: the weights sum to {sum(self.weights):g}, so the target is scaled by that', stacklevel=3
            )

    def check(self, teachers: int) -> None:
        if len(self.weights) != teachers:
            raise UserError(f'mix: {len(self.weights)} weights for {teachers} teachers; give one weight a teacher')

    def selected(self, teachers: int, step: MixContext) -> Sequence[int]:
        return [number for number, weight in enumerate(self.weights) if weight > 0]

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        everybody = len(outputs) == len(self.weights)
        return self._mixed(outputs, self.weights if everybody else [weight for weight in self.weights if weight > 0])

    def expected(self, outputs: Tensor) -> Tensor:
        return self._mixed(outputs, self.weights)

    @staticmethod
    def _mixed(outputs: Tensor, weights: Sequence[float]) -> Tensor:
        # Made on the host and sent: torch.tensor(..., device=...) would wait for a GPU in every step.
        return mix_outputs(outputs, torch.tensor(weights, dtype=outputs.dtype).to(outputs.device, non_blocking=True))


@MIXES.register('dirichlet', 'random weights from a symmetric Dirichlet distribution, per batch or sample')
@dataclass(frozen=True)
class Dirichlet(Mix):
    """A linear combination whose weights are drawn anew from a symmetric Dirichlet distribution.

    Args:
        alpha: The concentration: 1 is uniform over all mixes, small values prefer one teacher, large ones the average.
        per: ``'batch'``, one draw for all samples of a batch, or ``'sample'``.
    """

    alpha: float = 1.0
    per: str = 'batch'

    def __post_init__(self) -> None:
        number(self.alpha, 'mix: dirichlet: alpha', above=0)
        one_of(self.per, ('batch', 'sample'), 'mix: dirichlet: per')

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        ids = step.ids if self.per == 'sample' else step.ids.new_zeros(1)
        weights = dirichlet_weights(outputs.shape[0], self.alpha, step.seed, step.batch, ids)
        return mix_outputs(outputs, weights if self.per == 'sample' else weights[:, 0])


@MIXES.register('random_one', 'one teacher a step, drawn at random; only that one runs')
@dataclass(frozen=True)
class RandomOne(Mix):
    """One teacher a step, drawn at random: K teachers for the price of one."""

    def selected(self, teachers: int, step: MixContext) -> Sequence[int]:
        return [int(counter_hash(step.seed, step.batch, _RANDOM_ONE).item()) % teachers]

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        return outputs[0]


@MIXES.register('oracle', 'sample by sample, the average of the teachers that are right; the label alone where none is')
@dataclass(frozen=True)
class Oracle(Mix):
    """The average of the teachers that are right about a sample; where none is, its label alone teaches it."""

    leaves_some_to_labels = True

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        return self.target_and_mask(outputs, step)[0]

    def mask(self, outputs: Tensor, step: MixContext) -> Tensor:
        return self.target_and_mask(outputs, step)[1]

    def target_and_mask(self, outputs: Tensor, step: MixContext) -> tuple[Tensor, Tensor]:
        self.check_labels(step.labels)
        assert step.labels is not None
        return oracle_mix(outputs, step.labels, step.known)

    def check_labels(self, labels: Tensor | None) -> None:
        if labels is None:
            raise UserError(
                'mix: oracle asks which teachers are right, and the batch has no hard labels (integers of shape '
                "[batch]); use 'uniform' or 'confidence'"
            )


@MIXES.register('confidence', "sample by sample, in proportion to each teacher's top probability")
@dataclass(frozen=True)
class Confidence(Mix):
    """A linear combination with weights in proportion to each teacher's top probability for the sample."""

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        return self.expected(outputs)

    def expected(self, outputs: Tensor) -> Tensor:
        return mix_outputs(outputs, confidence_weights(outputs))


@MIXES.register('permuted', 'the average, all but its highest value shuffled among the classes')
@dataclass(frozen=True)
class Permuted(Mix):
    """The average of all teachers without what it knows of the other classes: their values are shuffled."""

    def __call__(self, outputs: Tensor, step: MixContext) -> Tensor:
        return permute_dark_knowledge(outputs.mean(dim=0), step.ids, step.seed, step.batch)


# A number of its own, so that the choice of the teacher shares no draw with mixing weights of the same seed and batch.
_RANDOM_ONE = 0x0E


def make_mix(mix: Mix | str | Sequence[float] | dict[str, Any]) -> Mix:
    """A mix from what a user writes: its name, a list of weights, ``{name: dirichlet, alpha: 0.5}`` or the object."""
    if isinstance(mix, Mix):
        return mix
    if isinstance(mix, list | tuple):
        return Weights(mix)
    options = dict(mix) if isinstance(mix, dict) else {'name': mix}
    name = options.pop('name', None)
    if not isinstance(name, str):
        raise UserError(f"mix: {mix!r} is not a mix; write a name ('uniform'), a list of weights, or name and options")
    return instantiate(MIXES.get(name, 'mix'), options, 'mix')
