"""From what a user writes as ``loss`` to a function of student, target and labels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from composer_kd.errors import UserError, nearest
from composer_kd.functional.losses import LOSSES, standardize

__all__ = ['make_loss']

DistillLoss = Callable[[Tensor, Tensor, 'Tensor | None'], Tensor]


def make_loss(
    loss: str | dict[str, Any] | Callable[..., Tensor], temperature: float | None, z_score: bool
) -> DistillLoss:
    """The function ``(student, target, labels) -> scalar`` that a name, a name with options, or a callable means.

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
    known = inspect.signature(function).parameters
    for option, value in options.items():
        if option not in known or option in list(known)[:2]:
            extra = [parameter for parameter in list(known)[2:] if parameter != 'labels']
            raise UserError(f'loss: {label} has no option {option!r}; {nearest(option, extra)}')
        if option == 'temperature' and not (_is_number(value) and value > 0):
            raise UserError(f'loss: the temperature is a finite number above 0, got {value!r}')
    wants_labels = 'labels' in known

    def compare(student: Tensor, target: Tensor, labels: Tensor | None) -> Tensor:
        if z_score:
            student, target = standardize(student), standardize(target)
        if not wants_labels:
            return function(student, target, **options)
        if labels is None:
            raise UserError(f'loss: {label} needs hard labels, and the batch has none (integers of shape [batch])')
        return function(student, target, labels=labels, **options)

    return compare


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
