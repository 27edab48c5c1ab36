"""Runs that a run names: its teachers, whose losses order its data, whose weights it begins at; made directories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer_kd.algorithms import AdversarialRecycling, Distillation, LossCurriculum, WarmStart
from composer_kd.algorithms.adversarial_recycling.examples import recorded_set
from composer_kd.algorithms.loss_curriculum.rules import recorded_epochs
from composer_kd.archive.archive import Archive
from composer_kd.archive.remote import run_at
from composer_kd.core.errors import UserError, nearest, path_fault
from composer_kd.core.options import parse_section
from composer_kd.models import ModelSection
from composer_kd.models.registry import same_model
from composer_kd.runs.config import RunConfig
from composer_kd.runs.objects import algorithm_class
from composer_kd.storage.fetch import is_remote
from composer_kd.teachers.base import kind_of
from composer_kd.teachers.from_run import finished_manifest

__all__ = ['Names', 'References', 'check_same_model', 'nth', 'resolve']


def nth(name: str, number: int, repeat: int) -> str:
    """What the run with a seed of its own is called."""
    return name if repeat == 1 else f'{name}-s{number}'


@dataclass(frozen=True)
class Names:
    """What one run may call the others of its lineage by.

    Args:
        repeats: The names of the lineage, and how many seeds each has.
        name: The run's own.
        number: Which of its seeds.
        folder: Where the run directories are.
    """

    repeats: Mapping[str, int]
    name: str
    number: int
    folder: Path

    @property
    def every(self) -> set[str]:
        """The names of all runs of the lineage."""
        return {nth(name, number, count) for name, count in self.repeats.items() for number in range(count)}

    @property
    def begun(self) -> bool:
        """Whether the run itself has trained a step."""
        return (self.folder / nth(self.name, self.number, self.repeats[self.name]) / 'run.yaml').is_file()

    def run(self, called: str, where: str) -> str | None:
        """The run of the lineage that is meant; ``None`` where it is a run directory from elsewhere."""
        repeats = self.repeats
        if called in repeats:
            if repeats[called] == 1:
                return called
            if repeats[called] != repeats[self.name]:
                raise UserError(
                    f'{where}: {called!r} is repeated {repeats[called]} times and this run {repeats[self.name]}; '
                    f'name one, as in {nth(called, 0, 2)!r}, or repeat both alike (then seeds are paired)'
                )
            return nth(called, self.number, repeats[called])
        if called in self.every:
            return called
        if fault := path_fault(called):
            raise UserError(f'{where}: {called!r} {fault}')
        if is_remote(called) or (Path(called) / 'run.yaml').is_file():
            return None
        raise UserError(
            f'{where}: {called!r} is neither a run of this file nor a run directory; '
            f'{nearest(called, {*repeats, *self.every} - {self.name})}'
        )


@dataclass
class References:
    """What a run's names turned out to be.

    Attributes:
        changes: To its configuration: run directories in the place of names.
        teachers: Runs of the lineage that teach it.
        losses: Runs of the lineage whose recorded losses it uses, and where in the file it says so.
        logits: Runs of the lineage whose recorded logits it looks up and does not complete itself, and where.
        starts: The run of the lineage whose weights it begins at, and where.
        examples: The run of the lineage whose recorded adversarial examples it uses, and where.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    teachers: list[str] = field(default_factory=list)
    losses: dict[str, str] = field(default_factory=dict)
    logits: dict[str, str] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


def resolve(config: RunConfig, names: Names, place: str) -> References:
    """Find every run that a run names.

    Args:
        config: The run's configuration.
        names: What it may name.
        place: Of the run in the file.
    """
    found, algorithms = References(), {}
    for algorithm, options in config.algorithms.items():
        where = '.'.join(filter(None, [place, 'algorithms', algorithm]))
        method = algorithm_class(algorithm, place)
        if issubclass(method, Distillation):
            options = {**options, 'teachers': _teachers(options.get('teachers'), names, where, found)}
        elif issubclass(method, LossCurriculum):
            options = _losses(options, 'archive', names, where, found)
        elif issubclass(method, WarmStart):
            options = _start(options, 'source', names, where, config.model, found)
        elif issubclass(method, AdversarialRecycling):
            options = _examples(options, 'source', names, where, found)
        algorithms[algorithm] = options
    found.changes['algorithms'] = algorithms
    where = f'{place}.' if place else ''
    if config.curriculum is not None:
        found.changes['curriculum'] = _losses(config.curriculum, 'from', names, f'{where}curriculum', found)
    if config.start is not None:
        found.changes['start'] = _start(config.start, 'from', names, f'{where}start', config.model, found)
    if config.adversarial is not None:
        found.changes['adversarial'] = _examples(config.adversarial, 'from', names, f'{where}adversarial', found)
    if config.replaces is not None:
        run = names.run(config.replaces, f'{where}replaces')
        found.changes['replaces'] = config.replaces if run is None else str(names.folder / run)
    return found


def check_same_model(theirs: ModelSection, ours: ModelSection, called: str, where: str) -> None:
    """Refuse to begin at the weights of another model than one's own."""
    if not same_model(theirs, ours):
        raise UserError(
            f'{where}: {called!r} has the model {theirs.model_dump()} and this run {ours.model_dump()}; a warm start '
            f'needs the same model: change one of them, or name another run'
        )


def _teachers(teachers: Any, names: Names, where: str, found: References) -> list[Any]:
    if not isinstance(teachers, list) or not teachers or not all(isinstance(t, str | dict) for t in teachers):
        raise UserError(
            f'{where}.teachers: expected a list of runs of the lineage or of run directories, got {teachers!r}'
        )
    resolved, paths = [], []
    for teacher in teachers:
        kind = _kind_of(teacher, where) if isinstance(teacher, dict) else None
        called: Any = teacher if kind is None else teacher[kind]
        run = names.run(called, f'{where}.teachers')
        if run and run not in found.teachers:
            found.teachers.append(run)
        if run and kind == 'recorded' and not teacher.get('fill'):
            found.logits[run] = f'{where}.teachers'
        paths.append(str(names.folder / run) if run else called)
        resolved.append(paths[-1] if kind is None else {**teacher, kind: paths[-1]})
    if len(set(paths)) < len(paths):
        raise UserError(f'{where}.teachers: a teacher is there twice: {teachers}; use mix weights to count one more')
    return resolved


def _kind_of(teacher: dict[str, Any], where: str) -> str:
    try:
        return kind_of(teacher)
    except UserError as error:
        raise UserError(f'{where}.{error}') from None


def _losses(options: dict[str, Any], key: str, names: Names, where: str, found: References) -> dict[str, Any]:
    """A curriculum's options with the run directory of its losses; one from elsewhere must have recorded them."""
    return _recorded(options, key, names, where, found.losses, recorded_epochs)


def _examples(options: dict[str, Any], key: str, names: Names, where: str, found: References) -> dict[str, Any]:
    """The same for adversarial examples."""
    return _recorded(options, key, names, where, found.examples, recorded_set)


def _recorded(
    options: dict[str, Any],
    key: str,
    names: Names,
    where: str,
    runs: dict[str, str],
    look: Callable[[Archive], Any],
) -> dict[str, Any]:
    """Options with a run directory in the place of a name: entered into ``runs``, or from elsewhere and looked into."""
    called, where = _called(options, key, where)
    if called is None:
        return options
    run = names.run(called, where)
    if run is None:
        try:
            look(Archive(called))
        except UserError as error:
            raise UserError(f'{where}: {error}') from None
        return options
    runs[run] = where
    return {**options, key: str(names.folder / run)}


def _start(
    options: dict[str, Any], key: str, names: Names, where: str, model: ModelSection, found: References
) -> dict[str, Any]:
    """A warm start's options with a run directory; one from elsewhere must have finished, with the same model."""
    called, where = _called(options, key, where)
    if called is None:
        return options
    if called not in names.every | set(names.repeats) and (names.begun or Path(called).is_file()):
        return options  # What a run began at may be gone once it has begun. A file of weights is read in its turn.
    run = names.run(called, where)
    if run is not None:
        found.starts[run] = where
        return {**options, key: str(names.folder / run)}
    try:
        elsewhere = run_at(called)
        finished_manifest(elsewhere)
        theirs = parse_section(ModelSection, elsewhere.read_config().get('model'), f'{elsewhere.config_file}: model')
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    check_same_model(theirs, model, called, where)
    return options


def _called(options: dict[str, Any], key: str, where: str) -> tuple[str | None, str]:
    """What a run calls the other one, and where it does."""
    called, where = options.get(key), f'{where}.{key}'
    if called is not None and not isinstance(called, str):
        raise UserError(f'{where}: expected a run of the lineage or a run directory, got {called!r}')
    if called is not None and (fault := path_fault(called)):
        raise UserError(f'{where}: {called!r} {fault}')
    return called, where
