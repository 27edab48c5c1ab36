"""What an attack is given: checked once, in pixels from 0 to 255, and the same words for training and evaluation."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from composer.core import State, get_precision_context
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.options import number, one_of, switch, whole_number
from composer_kd.functional.attacks import (
    NORMS,
    Bound,
    Normalization,
    other_labels,
    pgd,
    random_start,
    round_at_random,
)
from composer_kd.functional.counter import counter_hash
from composer_kd.models.batch import logits_of
from composer_kd.models.classifier import Classifier, evaluation_mode, unwrapped
from composer_kd.teachers.record import Inference

__all__ = ['PIXELS', 'Attack', 'Budget', 'attackable']

# The scale that deltas are on; it stands beside them in the archive.
PIXELS = 255

_LARGEST = 127  # Of what int8 holds on both sides of 0.

_LARGEST_BALL = 10**6  # In l2: black and white images of 2,000 by 2,000 pixels are less apart.
_MOST_STEPS = 10**5

# What papers have for images of 32x32: 8/255, and half of the whole scale.
_EPSILON = {'linf': 8.0, 'l2': 128.0}

# A step back through the model for the pixels alone costs about a forward pass.
_PASSES_OF_A_STEP = 2


@dataclass(frozen=True)
class Attack:
    """A number of gradient steps within a ball.

    Attributes:
        epsilon: The ball's radius, in pixels: 8 is the 8/255 of papers.
        steps: How many.
        step_size: In pixels.
        norm: ``'linf'`` or ``'l2'``.
        targeted: Towards another class, one of its own for each sample, instead of away from the label.
        strongest: Whether of all steps, the start included, the one counts that the model does worst on.
    """

    epsilon: float
    steps: int
    step_size: float
    norm: str = 'linf'
    targeted: bool = False
    strongest: bool = False

    @classmethod
    def checked(
        cls,
        epsilon: Any,
        steps: Any,
        step_size: Any,
        norm: Any,
        targeted: bool = False,
        strongest: bool = False,
        one_step: float = 1.25,
    ) -> Attack:
        """The attack that was asked for, or one line on what cannot be.

        Args:
            epsilon: See above, as the following. ``None`` is 8 for ``linf`` and 128 for ``l2``.
            steps: How many.
            step_size: ``None`` is a quarter of epsilon for several steps (2 for 8), ``one_step`` times it for one.
            norm: By its name.
            targeted: See above.
            strongest: See above.
            one_step: What one step is by default, in parts of epsilon.
        """
        one_of(norm, NORMS, 'norm')
        epsilon = _EPSILON[norm] if epsilon is None else epsilon
        number(epsilon, 'epsilon', above=0)
        if epsilon < 1:
            raise UserError(
                f'epsilon: pixels go from 0 to 255, so 8 stands for 8/255, and {epsilon!r} would change none; multiply '
                f'by 255'
            )
        if norm == 'linf' and epsilon > _LARGEST:
            raise UserError(
                f'epsilon: {epsilon!r} is more than a delta can be, which is kept in 8 bits; give one up to {_LARGEST}'
            )
        whole_number(steps, 'steps', most=_MOST_STEPS)
        number(epsilon, 'epsilon', above=0, most=_LARGEST_BALL)
        if step_size is None:
            step_size = epsilon / 4 if steps > 1 else epsilon * one_step
        switch(targeted, 'targeted')
        number(step_size, 'step_size', above=0, most=_LARGEST_BALL)
        return cls(float(epsilon), steps, float(step_size), norm, targeted, strongest)

    @property
    def passes(self) -> int:
        """What attacking an image costs, in forward passes."""
        return _PASSES_OF_A_STEP * self.steps + self.strongest

    def as_mapping(self) -> dict[str, Any]:
        """What the manifest of an archive says of it."""
        values = asdict(self)
        del values['strongest']
        return {'attack': 'pgd', **values, 'pixels': PIXELS}

    def start(self, images: Tensor, ids: Tensor, seed: int, step: int) -> Tensor:
        """Deltas drawn evenly out of the ball."""
        return random_start(images.shape, ids, seed, step, self.epsilon, self.norm)

    def whole(self, deltas: Tensor, ids: Tensor, seed: int, step: int) -> Tensor:
        """int8 deltas that are these on average: steps of less than half a pixel add up, where images meet again.

        In ``linf`` they stay within epsilon. In ``l2`` rounding may make one longer: it is put back into the ball where
        it is used.
        """
        # L2 does not bound a single pixel, int8 does.
        most = math.floor(self.epsilon) if self.norm == 'linf' else _LARGEST
        return round_at_random(deltas, ids, seed, step).clamp(-most, most).to(torch.int8)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        ids: Tensor,
        *,
        seed: int,
        classes: int,
        start: Tensor | None,
        bounds: tuple[Bound, Bound],
        normalization: Normalization,
    ) -> Tensor:
        """The adversarial images, float pixels; the arguments are those of :func:`~composer_kd.functional.pgd`.

        Targets are drawn by (seed, id) alone, so that attacks on one image at different times pull it one way.
        """
        if self.targeted:
            labels = other_labels(labels, ids, seed, classes)
        return pgd(
            model, images, labels, self.epsilon, self.step_size, self.steps, self.norm, self.targeted, start, bounds,
            normalization, self.strongest,
        )  # fmt: skip

    def on(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        labels: Tensor,
        ids: Tensor,
        classes: int,
        normalization: Normalization,
    ) -> Tensor:
        """The adversarial images of an evaluation: from a random start that is the same every time."""
        return self(
            model, images, labels, ids, seed=0, classes=classes, start=self.start(images, ids, 0, 0),
            bounds=(0.0, 255.0), normalization=normalization,
        )  # fmt: skip


_UNITS = {'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'KiB': 2**10, 'MiB': 2**20, 'GiB': 2**30}
_SIZE = rf'([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?) *({"|".join(_UNITS)})'

# Goes into the hash that chooses.
_VERSION = 1


class Budget:
    """A bound on the examples that are kept: a number of samples, a size, or none.

    Args:
        given: ``None``, ``10000`` or ``'64MB'``; a delta takes a byte a pixel and channel.
    """

    def __init__(self, given: int | str | None):
        self._samples: int | None = None
        self._bytes: float | None = None
        self.given = given
        size = re.fullmatch(_SIZE, given) if isinstance(given, str) else None
        if size is not None:
            self._bytes = float(size[1]) * _UNITS[size[2]]
            if self._bytes < 1:
                raise UserError(f'budget: {given!r} has no room for anything; raise it, or leave it out to keep all')
        elif isinstance(given, int) and not isinstance(given, bool) and given > 0:
            self._samples = given
        elif given is not None:
            raise UserError(f"budget: expected a number of samples, or a size as '64MB'; got {given!r}")

    def kept(self, ids: NDArray[np.int64], shape: Sequence[int], owner: str) -> NDArray[np.int64]:
        """The rows of the data whose examples are kept: those with the lowest hashes of their ids, in their order.

        Who is kept does not depend on the order, the seed or the rest of the data, so nothing has to make way later.
        """
        capacity, size = len(ids), int(np.prod(shape))
        if self._bytes is not None:
            capacity = int(self._bytes // size)
        elif self._samples is not None:
            capacity = self._samples
        if not capacity:
            raise UserError(
                f'{owner}: budget: {self.given} has no room for one delta, which takes {size:,} bytes; raise it'
            )
        hashes = counter_hash(_VERSION, torch.from_numpy(ids)).numpy()
        return np.sort(np.argsort(hashes, kind='stable')[:capacity])


@contextmanager
def attackable(state: State | Inference, *rest: Any) -> Iterator[Callable[[Tensor], Tensor]]:
    """The student as a function from normalised images to float32 logits, for the length of a ``with`` block.

    It is in evaluation mode: BatchNorm uses its running statistics and does not learn from the attack, drop-out draws
    nothing, and what an image is turned into does not depend on the images beside it, so that ranks and microbatches
    agree. Without DistributedDataParallel, whose gradients an attack has no part in.

    Args:
        state: The Trainer's, or what stands for it where a finished run's model is asked.
        rest: What else a batch holds, for models that look at it.
    """
    net = unwrapped(state.model)
    # Composer puts what it compiles in the place of the model's `forward`: it would compile anew for these batches.
    forward = partial(Classifier.forward, net) if isinstance(net, Classifier) else net

    def logits(images: Tensor) -> Tensor:
        with get_precision_context(state.precision, state.precision_config):
            outputs = forward((images, *rest))
        return logits_of(outputs, 'the student').float()

    with evaluation_mode(net):
        yield logits
