"""The names that a YAML file may use, kind by kind, with a line each; and where data sets come from."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from composer_kd import ramp, schedule
from composer_kd.data.augment_section import AUGMENTATIONS
from composer_kd.data.drift import DRIFTS
from composer_kd.data.section import SOURCES
from composer_kd.functional import LOSSES
from composer_kd.models import MODELS
from composer_kd.registry import Registry
from composer_kd.runs.names import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
from composer_kd.teachers import MIXES

__all__ = ['vocabulary']


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
