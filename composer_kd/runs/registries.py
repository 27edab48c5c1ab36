"""The names that a run's YAML may use beside our own: Composer's algorithms, callbacks, loggers and so on."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import composer.algorithms
import composer.callbacks
import composer.loggers
import composer.optim
import torch
from composer.core import Algorithm, Callback, State
from composer.loggers import LoggerDestination
from composer.optim import ComposerScheduler

from composer_kd.algorithms import ALGORITHMS
from composer_kd.core import ramp, schedule
from composer_kd.core.errors import UserError
from composer_kd.core.registry import Registry
from composer_kd.data.drift import DRIFTS
from composer_kd.data.section import AUGMENTATIONS, SOURCES
from composer_kd.functional import LOSSES
from composer_kd.models import MODELS
from composer_kd.teachers import MIXES

__all__ = ['ALGORITHMS', 'CALLBACKS', 'LOGGERS', 'OPTIMIZERS', 'SCHEDULERS', 'OneCycleScheduler', 'vocabulary']

OPTIMIZERS: Registry[Any] = Registry('optimizers')
SCHEDULERS: Registry[Any] = Registry('schedulers')
CALLBACKS: Registry[Any] = Registry('callbacks')
LOGGERS: Registry[Any] = Registry('loggers')


class OneCycleScheduler(ComposerScheduler):
    """Warm up to the optimizer's rate, then cosine down to nearly nothing (Smith and Topin, 2017).

    Args:
        warmup: The part of the training that the rate rises in. Default: ``0.3``.
        start: The rate in the beginning, as a part of the optimizer's. Default: ``0.04``.
        end: The rate in the end, as a part of the optimizer's. Default: ``1e-4``.
    """

    def __init__(self, warmup: float = 0.3, start: float = 0.04, end: float = 1e-4):
        if not 0 <= warmup < 1:
            raise UserError(f'one_cycle: warmup is a part of the training, from 0 to below 1, got {warmup!r}')
        self.warmup, self.start, self.end = warmup, start, end

    def __call__(self, state: State, ssr: float = 1.0) -> float:
        elapsed = state.get_elapsed_duration()
        done = min(float(elapsed) / ssr, 1.0) if elapsed is not None else 0.0
        if done < self.warmup:
            low, high, part = self.start, 1.0, done / self.warmup
        else:
            low, high, part = 1.0, self.end, (done - self.warmup) / (1 - self.warmup)
        return high + (low - high) * 0.5 * (1 + math.cos(math.pi * part))


def _add_classes(
    registry: Registry[Any], module: ModuleType, base: type, suffix: str = '', besides: tuple = ()
) -> None:
    for name in dir(module):
        entry = getattr(module, name)
        if inspect.isclass(entry) and issubclass(entry, base) and entry is not base and entry not in besides:
            short = name.removesuffix(suffix)
            if short not in registry:
                registry.add(short, entry, f'{module.__name__.partition(".")[0]}: {_summary(entry)}')


def _summary(entry: type) -> str:
    """The first sentence of a class's docstring, without its markup."""
    paragraph = ' '.join((inspect.getdoc(entry) or '').partition('\n\n')[0].split())
    plain = re.sub(
        r':\w+:`[.~]?([^`<]+)(<[^`]*>)?`|`([^`<]+?)\s*<[^`]*>`_+', lambda m: (m[1] or m[3]).strip(), paragraph
    )
    sentence = re.split(r'(?<=\w)[.;:] |\.$', plain.replace('`', ''))[0]
    return textwrap.shorten(sentence, 90, placeholder=' ...')


_add_classes(OPTIMIZERS, torch.optim, torch.optim.Optimizer)
_add_classes(OPTIMIZERS, composer.optim, torch.optim.Optimizer)
SCHEDULERS.add('OneCycle', OneCycleScheduler, 'warm up to the rate, then cosine down')
SCHEDULERS.add('Cosine', composer.optim.CosineAnnealingScheduler, 'cosine from the rate to alpha_f of it')
_add_classes(SCHEDULERS, composer.optim, ComposerScheduler, suffix='Scheduler')
_add_classes(ALGORITHMS, composer.algorithms, Algorithm)
_add_classes(CALLBACKS, composer.callbacks, Callback)
_add_classes(LOGGERS, composer.loggers, LoggerDestination)


def vocabulary() -> Mapping[str, Iterable[tuple[str, str]]]:
    """Kinds of names, and the names of each with its line. Plugins are asked when a kind is read."""
    kinds: dict[str, Iterable[tuple[str, str]]] = {}
    kinds[ALGORITHMS.kind] = ALGORITHMS.summaries()
    kinds[LOSSES.kind] = _with_options(LOSSES)
    kinds[MIXES.kind] = _with_options(MIXES)
    kinds['schedules'] = schedule.FORMS.items()
    kinds['weights and temperatures that change'] = {
        **ramp.FORMS,
        'learned': 'a temperature alone, with kl and dkd: it climbs the loss that the student descends',
    }.items()
    kinds[MODELS.kind] = MODELS.summaries()
    kinds['data sets'] = SOURCES.items()
    kinds['augmentations'] = AUGMENTATIONS.items()
    kinds[DRIFTS.kind] = DRIFTS.summaries()
    for registry in (OPTIMIZERS, SCHEDULERS, CALLBACKS, LOGGERS):
        kinds[registry.kind] = registry.summaries()
    return kinds


def _with_options(registry: Registry[Any]) -> Iterator[tuple[str, str]]:
    """Every line with the options that its entry takes, and their defaults."""
    for name, summary in registry.summaries():
        parameters = inspect.signature(registry.get(name)).parameters.values()
        options = [f'{one.name}: {_plain(one.default)}' for one in parameters if one.default is not one.empty]
        yield name, f'{summary} ({", ".join(options)})' if options else summary


def _plain(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)
