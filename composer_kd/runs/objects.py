"""From the names in a run's configuration to optimizers, schedulers, algorithms, callbacks and loggers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from composer.core import Algorithm, Callback
from composer.loggers import LoggerDestination
from composer.optim import ComposerScheduler

from composer_kd.algorithms.roles import ChecksTraining, MakesExamples, Training, needs_of
from composer_kd.core.errors import UserError
from composer_kd.core.options import check_options, instantiate, split_name
from composer_kd.core.registry import Registry
from composer_kd.core.schedule import Progress
from composer_kd.data.transform import Augmentation
from composer_kd.models import build_model
from composer_kd.runs.config import RunConfig
from composer_kd.runs.recorders import check_recording
from composer_kd.runs.registries import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
from composer_kd.teachers.base import BaseTeacher
from composer_kd.teachers.factory import kind_of

__all__ = [
    'algorithm_class',
    'check_objects',
    'make_algorithms',
    'make_callbacks',
    'make_loggers',
    'make_optimizer',
    'make_scheduler',
]

# What of Composer's cannot work on keyed batches out of shards, and what to do instead.
_REFUSED = {
    'AugMix': 'works inside a torchvision data set; use data.augment, or a Trainer of your own on such data',
    'RandAugment': 'works inside a torchvision data set; use data.augment: {rand_augment: true}',
    'SelectiveBackprop': "drops a batch's images and labels but not their keys; use it on (x, y) batches of your own",
}


# Of an optimizer's options: what is as much was not meant. What is below 0 it refuses itself.
_BELOW = {'lr': 1e4, 'weight_decay': 1e4, 'eps': 1e4, 'momentum': 1.0}


def make_optimizer(
    config: RunConfig, parameters: Iterable[torch.nn.Parameter], place: str = ''
) -> torch.optim.Optimizer:
    where = _join(place, 'optimizer')
    name, options = split_name(config.optimizer, where)
    for key, bound in _BELOW.items():
        value = options.get(key, 0.0)
        if isinstance(value, int | float) and not value < bound:
            raise UserError(f'{where}.{key}: expected a number below {bound:g}, got {value!r}')
    return instantiate(OPTIMIZERS.get(name, where), options, where, params=parameters)


def make_scheduler(config: RunConfig, place: str = '') -> ComposerScheduler | None:
    if config.scheduler is None:
        return None
    where = _join(place, 'scheduler')
    name, options = split_name(config.scheduler, where)
    return instantiate(SCHEDULERS.get(name, where), options, where)


def algorithm_class(name: str, place: str = '') -> type[Algorithm]:
    """The class that a name under ``algorithms`` means."""
    where = _join(place, f'algorithms.{name}')
    found = ALGORITHMS.get(name, where)
    if found.__name__ in _REFUSED:
        raise UserError(f'{where}: {_REFUSED[found.__name__]}')
    return found


def make_algorithms(config: RunConfig, place: str = '') -> list[Algorithm]:
    return [instantiate(*entry) for entry in _algorithms(config, place)]


def _algorithms(config: RunConfig, place: str) -> Iterator[tuple[type[Algorithm], dict[str, Any], str]]:
    """Class, arguments and place in the file of every algorithm."""
    for name, options in config.algorithms.items():
        found = algorithm_class(name, place)
        where = _join(place, f'algorithms.{name}')
        needs = needs_of(found)
        if config.trust_pickle and any(need.kind == 'weights' for need in needs.values()):
            options = {'trust_pickle': True, **options}
        yield found, options, where


def make_callbacks(config: RunConfig) -> list[Callback]:
    return [_make(CALLBACKS, 'callbacks', *entry) for entry in config.callbacks.items()]


def make_loggers(config: RunConfig) -> list[LoggerDestination]:
    return [_make(LOGGERS, 'loggers', *entry) for entry in config.loggers.items()]


def check_objects(config: RunConfig, place: str) -> list[Algorithm]:
    """Find every wrong name and option before the first run of a lineage trains, not when its own turn comes.

    Model, optimizer, scheduler and algorithms are made for a try: that costs nothing, with weights that have no memory
    and teachers that are names alone.
    Callbacks and loggers may open files and connections: their names and options' types are checked.

    Returns:
        The algorithms of the try.
    """
    with torch.device('meta'):  # Without memory, and whatever the data: some options fit each other or do not.
        build_model(config.model, num_classes=10, shape=(3, 32, 32), where=_join(place, 'model'))
    make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))], place)
    make_scheduler(config, place)
    tried: dict[str, Algorithm] = {}
    for found, options, where in _algorithms(config, place):
        tried[where] = instantiate(found, {**options, **_teacher_names(found, options)}, where)
    algorithms = list(tried.values())
    makes_examples = any(isinstance(one, MakesExamples) and one.makes_examples for one in algorithms)
    check_recording(config, place, [type(one).__name__ for one in algorithms], makes_examples)
    training = Training(
        algorithms=algorithms,
        progress=Progress(epoch=0, batch=0, epochs=config.epochs) if config.epochs else None,
        sizes={key: size for key in ('batch_size', 'microbatch_size') if (size := getattr(config, key)) is not None},
        validates=config.data.val_fraction > 0,
        augmentation=Augmentation.of(config.data),
        place=place,
    )
    for where, algorithm in tried.items():
        if isinstance(algorithm, ChecksTraining):
            algorithm.check(replace(training, where=where))
    for registry, kind, entries in ((CALLBACKS, 'callbacks', config.callbacks), (LOGGERS, 'loggers', config.loggers)):
        for name, options in entries.items():
            where = _join(place, f'{kind}.{name}')
            check_options(registry.get(name, where), options, where)
    return algorithms


def _teacher_names(method: type[Algorithm], options: dict[str, Any]) -> dict[str, Any]:
    """Options that name teachers, with teachers that are names alone: their runs may not have begun."""
    named: dict[str, Any] = {}
    for argument, need in needs_of(method).items():
        key = argument.removesuffix('_')
        given = options.get(key)
        if given is None:
            continue
        if need.many:
            named[key] = [_NamedTeacher(teacher) for teacher in given]
        elif need.kind in ('model', 'features', 'logits'):
            named[key] = _NamedTeacher(given)
    return named


class _NamedTeacher(BaseTeacher):
    """Stands for a teacher whose run may not have begun."""

    def __init__(self, teacher: str | dict[str, Any]):
        self.name = teacher if isinstance(teacher, str) else str(teacher.get('name') or teacher[kind_of(teacher)])


def _make(registry: Registry[Any], kind: str, name: str, options: dict[str, Any]) -> Any:
    return instantiate(registry.get(name, f'{kind}.{name}'), options, f'{kind}.{name}')


def _join(place: str, key: str) -> str:
    return f'{place}.{key}' if place else key
