"""From the names in a run's configuration to optimizers, schedulers, algorithms, callbacks and loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import Algorithm, Callback
from composer.loggers import LoggerDestination
from composer.optim import ComposerScheduler

from composer_kd.algorithms import AdversarialRecycling, Distillation, LossCurriculum, WarmStart
from composer_kd.algorithms.adversarial_recycling.examples import Views
from composer_kd.core.errors import UserError
from composer_kd.core.registry import Registry
from composer_kd.core.schedule import Progress
from composer_kd.data.transform import Augmentation
from composer_kd.models import build_model
from composer_kd.runs.config import RunConfig
from composer_kd.runs.construct import check_options, construct, split_name
from composer_kd.runs.recorders import check_recording
from composer_kd.runs.registries import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
from composer_kd.teachers import Teacher
from composer_kd.teachers.base import kind_of

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


@dataclass(frozen=True)
class _Keyed:
    """An algorithm with a key of its own in a run, whose ``from`` names the run that it recycles.

    Args:
        algorithm: Its class.
        argument: What ``from`` is called there.
        needs_one: Whether these options ask for such a run.
        which: What that run must have left.
    """

    algorithm: type[Algorithm]
    argument: str
    needs_one: Callable[[dict[str, Any]], bool]
    which: str


_KEYED = {
    'curriculum': _Keyed(
        LossCurriculum, 'archive', lambda options: options.get('mode') != 'infobatch', 'that recorded losses'
    ),
    'start': _Keyed(WarmStart, 'source', lambda options: True, 'whose weights it begins at'),
    'adversarial': _Keyed(
        AdversarialRecycling, 'source', lambda options: options.get('mode') == 'replay', 'that recorded its examples'
    ),
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
    return construct(OPTIMIZERS.get(name, where), options, where, params=parameters)


def make_scheduler(config: RunConfig, place: str = '') -> ComposerScheduler | None:
    if config.scheduler is None:
        return None
    where = _join(place, 'scheduler')
    name, options = split_name(config.scheduler, where)
    return construct(SCHEDULERS.get(name, where), options, where)


def algorithm_class(name: str, place: str = '') -> type[Algorithm]:
    """The class that a name under ``algorithms`` means."""
    where = _join(place, f'algorithms.{name}')
    found = ALGORITHMS.get(name, where)
    if found.__name__ in _REFUSED:
        raise UserError(f'{where}: {_REFUSED[found.__name__]}')
    return found


def make_algorithms(config: RunConfig, place: str = '') -> list[Algorithm]:
    return [construct(*entry) for entry in _algorithms(config, place)]


def _algorithms(config: RunConfig, place: str) -> Iterator[tuple[type[Algorithm], dict[str, Any], str]]:
    """Class, options and place in the file of every algorithm, with those that have a key of their own."""
    trusted = {'trust_pickle': True} if config.trust_pickle else {}
    for name, options in config.algorithms.items():
        found = algorithm_class(name, place)
        if issubclass(found, WarmStart):
            options = {**trusted, **options}
        yield found, options, _join(place, f'algorithms.{name}')
    for key, keyed in _KEYED.items():
        section: dict[str, Any] | None = getattr(config, key)
        if section is None:
            continue
        where, options = _join(place, key), dict(section)
        if keyed.argument in options:
            raise UserError(f'{where}.{keyed.argument}: unknown key; write from')
        if options.get('from') is None and keyed.needs_one(options):
            raise UserError(f'{where}.from: name the run of this file, or the run directory, {keyed.which}')
        if 'from' in options:
            options[keyed.argument] = options.pop('from')
        if keyed.algorithm is WarmStart:
            options = {**trusted, **options}
        yield keyed.algorithm, options, where


def make_callbacks(config: RunConfig) -> list[Callback]:
    return [_make(CALLBACKS, 'callbacks', *entry) for entry in config.callbacks.items()]


def make_loggers(config: RunConfig) -> list[LoggerDestination]:
    return [_make(LOGGERS, 'loggers', *entry) for entry in config.loggers.items()]


def check_objects(config: RunConfig, place: str) -> None:
    """Find every wrong name and option before the first run of a lineage trains, not when its own turn comes.

    Model, optimizer, scheduler and algorithms are made for a try: that costs nothing, with weights that have no memory
    and teachers that are names alone.
    Callbacks and loggers may open files and connections: their names and options' types are checked.
    """
    with torch.device('meta'):  # Without memory, and whatever the data: some options fit each other or do not.
        build_model(config.model, num_classes=10, shape=(3, 32, 32), where=_join(place, 'model'))
    make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))], place)
    make_scheduler(config, place)
    tried = []
    for found, options, where in _algorithms(config, place):
        if issubclass(found, Distillation):
            options = {**options, 'teachers': [_NamedTeacher(teacher) for teacher in options['teachers']]}
        tried.append(construct(found, options, where))
        if isinstance(tried[-1], Distillation):
            _check_distillation(tried[-1], config, place, where)
    if len(several := [type(one).__name__ for one in tried if isinstance(one, Distillation)]) > 1:
        raise UserError(
            f'{_join(place, "algorithms")}: {" and ".join(several)}: a run has one distillation; give one of them all '
            f'teachers'
        )
    makes_examples = any(isinstance(one, AdversarialRecycling) and one.makes_examples for one in tried)
    check_recording(config, place, [type(one).__name__ for one in tried], makes_examples)
    for key, once in (('start', WarmStart), ('adversarial', AdversarialRecycling)):
        if sum(isinstance(algorithm, once) for algorithm in tried) > 1:
            raise UserError(f'{_join(place, key)}: {once.__name__} is there twice; give it once')
    for algorithm in tried:
        if isinstance(algorithm, AdversarialRecycling):
            _check_company(algorithm, tried, place)
            Views(Augmentation.of(config.data), _join(place, type(algorithm).__name__))
    curricula = [algorithm for algorithm in tried if isinstance(algorithm, LossCurriculum)]
    if len(curricula) > 1:
        raise UserError(f'{_join(place, "curriculum")}: LossCurriculum is there twice; give it once')
    for curriculum in curricula:
        _check_company(curriculum, tried, place)
    if config.data.val_fraction == 0:
        for algorithm in tried:
            if isinstance(algorithm, Distillation) and algorithm.schedule.until_overtaken:
                where = _join(place, 'data.val_fraction')
                raise UserError(f"{where}: schedule 'until overtaken' compares on validation data; set it to 0.1, say")
    for registry, kind, entries in ((CALLBACKS, 'callbacks', config.callbacks), (LOGGERS, 'loggers', config.loggers)):
        for name, options in entries.items():
            where = _join(place, f'{kind}.{name}')
            check_options(registry.get(name, where), options, where)


def _check_distillation(algorithm: Distillation, config: RunConfig, place: str, where: str) -> None:
    """What of its options does not fit the length of the training or its batches."""
    if config.epochs:
        algorithm.check_length(Progress(epoch=0, batch=0, epochs=config.epochs), f'{where}.')
    for key in ('batch_size', 'microbatch_size'):
        size = getattr(config, key)
        if size is not None and size < algorithm.loss.least_samples:
            raise UserError(
                f'{_join(place, key)}: {size}, but the loss {algorithm.loss.name} compares the samples of a batch; use '
                f'{algorithm.loss.least_samples} or more'
            )


def _check_company(algorithm: LossCurriculum | AdversarialRecycling, tried: list[Algorithm], place: str) -> None:
    try:
        algorithm.check_neighbours(tried)
    except UserError as error:
        raise UserError(_join(place, str(error))) from None


class _NamedTeacher(Teacher):
    """Stands for a teacher whose run may not have begun."""

    def __init__(self, teacher: str | dict[str, Any]):
        self.name = teacher if isinstance(teacher, str) else str(teacher.get('name') or teacher[kind_of(teacher)])


def _make(registry: Registry[Any], kind: str, name: str, options: dict[str, Any]) -> Any:
    return construct(registry.get(name, f'{kind}.{name}'), options, f'{kind}.{name}')


def _join(place: str, key: str) -> str:
    return f'{place}.{key}' if place else key
