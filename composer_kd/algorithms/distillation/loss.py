"""From what a user writes as ``loss`` to a function of student, target, labels and progress."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from composer_kd.core.errors import UserError
from composer_kd.core.options import check_keys, instantiate, number
from composer_kd.core.ramp import Ramp
from composer_kd.core.schedule import Progress
from composer_kd.functional.losses import LEAST_SAMPLES, LOSSES, dkd, kl, mse, standardize

__all__ = ['DistillLoss', 'LearnedTemperature', 'Temperature', 'make_loss', 'make_temperature']


@dataclass(frozen=True)
class DistillLoss:
    """A function of the two sides' logits with everything that it needs beside them.

    Args:
        name: How lines call it.
        function: ``(student, teacher, ...) -> scalar``.
        options: Its options that are no numbers.
        numbers: Those that are, and that may change while the training goes on.
        wants_labels: Whether it has an argument called ``labels``.
        z_score: Whether both sides' logits are standardised first.
        compares_outputs: Whether it means the outputs themselves, and not the probabilities of classes.
    """

    name: str
    function: Callable[..., Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, Temperature] = field(default_factory=dict)
    wants_labels: bool = False
    z_score: bool = False
    compares_outputs: bool = False

    def __call__(
        self, student: Tensor, target: Tensor, labels: Tensor | None, numbers: Mapping[str, Any], single: bool = False
    ) -> Tensor:
        """Compare the two sides' logits, averaged over the batch.

        Args:
            student: ``[B, C]``.
            target: ``[B, C]``.
            labels: ``[B]``, where there are any.
            numbers: As :meth:`at` gives them.
            single: Whether two classes stand for a single output. A distance, and a function of the user's own,
                compare that one; what compares probabilities compares two.
        """
        if single and self.compares_outputs:
            student, target = student[:, 1:] - student[:, :1], target[:, 1:] - target[:, :1]
        if self.z_score:
            student, target = standardize(student), standardize(target)
        options = {**self.options, **numbers}
        if self.wants_labels:
            self.check_labels(labels)
            options['labels'] = labels
        return self.function(student, target, **options)

    def check_labels(self, labels: Tensor | None) -> None:
        """Refuse, in one line, batches without the labels that the loss needs."""
        if self.wants_labels and labels is None:
            raise UserError(f'loss: {self.name} needs hard labels, and the batch has none (integers of shape [batch])')

    def at(self, progress: Progress) -> dict[str, float]:
        """The numbers at this point of the training."""
        return {name: number.at(progress) for name, number in self.numbers.items()}

    @property
    def temperature(self) -> Temperature | None:
        return self.numbers.get('temperature')

    @property
    def learned(self) -> LearnedTemperature | None:
        return self.temperature if isinstance(self.temperature, LearnedTemperature) else None

    @property
    def least_samples(self) -> int:
        """Fewer than these cannot be compared."""
        return LEAST_SAMPLES.get(self.function, 1)


def make_loss(loss: str | dict[str, Any] | Callable[..., Tensor], temperature: Any, z_score: bool) -> DistillLoss:
    """The loss that a name, a name with options, or a callable means.

    Args:
        loss: ``'kl'``, ``{'name': 'kl', 'temperature': 2.0}``, or a function of (student, target) logits; one that has
            an argument called ``labels`` gets the hard labels as well.
        temperature: Given on, to a loss that has one; ``None`` leaves the loss's own default.
        z_score: Whether both sides' logits are standardised first.
    """
    options = dict(loss) if isinstance(loss, dict) else {}
    name = options.pop('name', None) if isinstance(loss, dict) else loss
    function: Callable[..., Any]
    if callable(name):
        function, label = name, getattr(name, '__name__', 'the given loss')
    elif isinstance(name, str):
        function, label = LOSSES.get(name, 'loss'), name
    else:
        raise UserError(f"loss: {loss!r} is not a loss; write a name ('mse'), name and options, or give a function")
    if temperature is not None:
        if options.get('temperature', temperature) != temperature:
            raise UserError(f'loss: temperature is given twice: {options["temperature"]} and {temperature}')
        options['temperature'] = temperature
    known = dict(inspect.signature(function).parameters)
    wants_labels = known.pop('labels', None) is not None
    check_keys(options, list(known)[2:], f'loss.{label}')
    numbers: dict[str, Temperature] = {}
    if 'temperature' in options:
        numbers['temperature'] = _temperature(options.pop('temperature'), function, label)
    # Ours take weights: every option whose default is a number may be one that changes.
    for option in [option for option in options if not callable(name) and isinstance(known[option].default, float)]:
        numbers[option] = Ramp(options.pop(option), f"loss: {label}'s {option}")
    made = DistillLoss(label, function, options, numbers, wants_labels, z_score, function is mse or callable(name))
    if not callable(name):
        _try(made)
    return made


def _temperature(written: Any, function: Callable[..., Any], label: str) -> Temperature:
    made = make_temperature(written)
    if isinstance(made, LearnedTemperature) and function not in (kl, dkd):
        # T^2 times something that does not vanish where both sides agree only ever grows with T.
        raise UserError(f'temperature: it is learned with the losses kl and dkd, not with {label}')
    return made


def _try(loss: DistillLoss) -> None:
    """Compare two samples, so that an option that cannot work is found now and not in the first step."""
    student = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, -1.0]])
    try:
        value = loss(student, student.flip(1), torch.tensor([2, 0]), loss.at(Progress(0, 0, epochs=1.0)))
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'loss: {loss.name} with {dict(loss.options)} does not work: {error}') from None
    if value.dim() or not torch.isfinite(value):
        raise UserError(f'loss: {loss.name} with {dict(loss.options)} gives {value.tolist()}, not a number')


# With a higher one all classes are alike to seven digits.
_HIGHEST = 1000.0


class LearnedTemperature:
    """A temperature that climbs the distillation loss while the student descends it.

    The idea of curriculum temperature (`Li et al, 2023 <https://arxiv.org/abs/2211.16231>`_): the target becomes
    harder as the student becomes better. ``T = low + (high - low) sigmoid(u)``, and after every step ``u`` goes up the
    gradient of that step's loss, by ``rate`` times ``strength``. It is one number, kept here and in the checkpoint of
    the algorithm: no parameter of the model, none of the optimizer.

    Args:
        start: The temperature that the training begins at. Default: ``4.0``.
        low: It stays above this. Default: ``1.0``.
        high: It stays below this. Default: ``21.0``.
        rate: The step size. Default: ``0.5``.
        strength: A factor of the step size, which may change. Default: ``'0 to 1 until 0.05dur, cosine'``.
    """

    def __init__(
        self,
        start: float = 4.0,
        low: float = 1.0,
        high: float = 21.0,
        rate: float = 0.5,
        strength: float | str = '0 to 1 until 0.05dur, cosine',
    ):
        for name, value in (('start', start), ('low', low), ('high', high), ('rate', rate)):
            number(value, f'temperature: learned: {name}', above=0, most=_HIGHEST)
        if not low < start < high:
            raise UserError(f'temperature: learned: start lies between low and high, got {low} < {start} < {high}')
        self.start, self.low, self.high, self.rate = start, low, high, rate
        self.strength = Ramp(strength, 'temperature: learned: strength')
        self._u = math.log((start - low) / (high - start))

    def at(self, progress: Progress) -> float:
        return self.low + (self.high - self.low) * _sigmoid(self._u)

    def climb(self, slope: float, progress: Progress) -> None:
        """Take a step; ``slope`` is the loss's derivative by the temperature, over all samples of the step."""
        share = _sigmoid(self._u)
        step = self.rate * self.strength.at(progress) * slope * (self.high - self.low) * share * (1 - share)
        if math.isfinite(step):
            # At most 1, so that one steep step does not end where the sigmoid is flat, and there is no way back.
            self._u += min(max(step, -1.0), 1.0)

    def check(self, progress: Progress, where: str = '') -> None:
        self.strength.check(progress, where)

    def state_dict(self) -> dict[str, float]:
        return {'u': self._u}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._u = state['u']

    def __repr__(self) -> str:
        return (
            f'LearnedTemperature(start={self.start}, low={self.low}, high={self.high}, rate={self.rate}, '
            f'strength={self.strength!r})'
        )


Temperature = Ramp | LearnedTemperature


def make_temperature(written: Any) -> Temperature:
    """What a user writes as a temperature: a number, ``'8 to 1'``, ``'learned'`` or ``{learned: {start: 8}}``."""
    if isinstance(written, Ramp | LearnedTemperature):
        return written
    if written == 'learned':
        return LearnedTemperature()
    if isinstance(written, Mapping):
        options = written.get('learned') if len(written) == 1 else None
        if not isinstance(options, Mapping):
            raise UserError(f'temperature: {written!r} is not a temperature; write {{learned: {{start: 4.0}}}}')
        return instantiate(LearnedTemperature, options, 'temperature')
    if isinstance(written, str) and get_close_matches(written, ['learned']):
        raise UserError(f"temperature: {written!r} is not a temperature; did you mean 'learned'?")
    return Ramp(written, 'temperature', open=True, most=_HIGHEST)


def _sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u)) if u >= 0 else math.exp(u) / (1 + math.exp(u))
