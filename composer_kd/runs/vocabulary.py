"""The names that a YAML file may use, kind by kind, with a line each; and where data sets come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from composer_kd.data.augment_section import AUGMENTATIONS
from composer_kd.data.drift import DRIFTS
from composer_kd.data.section import SOURCES
from composer_kd.functional import LOSSES
from composer_kd.models import MODELS
from composer_kd.runs.names import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
from composer_kd.schedule import FORMS
from composer_kd.teachers import MIXES

__all__ = ['vocabulary']


def vocabulary() -> Mapping[str, Iterable[tuple[str, str]]]:
    """Kinds of names, and the names of each with its line. Plugins are asked when a kind is read."""
    kinds: dict[str, Iterable[tuple[str, str]]] = {}
    for registry in (ALGORITHMS, LOSSES, MIXES):
        kinds[registry.kind] = registry.summaries()
    kinds['schedules'] = FORMS.items()
    kinds[MODELS.kind] = MODELS.summaries()
    kinds['data sets'] = SOURCES.items()
    kinds['augmentations'] = AUGMENTATIONS.items()
    kinds[DRIFTS.kind] = DRIFTS.summaries()
    for registry in (OPTIMIZERS, SCHEDULERS, CALLBACKS, LOGGERS):
        kinds[registry.kind] = registry.summaries()
    return kinds
