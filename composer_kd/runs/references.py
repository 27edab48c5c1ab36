"""Runs that a run names: run directories in the place of names, and what the named runs must leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer_kd.algorithms.roles import Need, needs_of
from composer_kd.archive.archive import Archive
from composer_kd.archive.run_dir import RunDir
from composer_kd.core.errors import UserError, nearest, path_fault
from composer_kd.core.options import parse_section
from composer_kd.models import ModelSection
from composer_kd.models.composer_compat import CHANGE_IMAGES, DROP_SAMPLES
from composer_kd.models.finished_run import FinishedRun
from composer_kd.models.registry import same_model
from composer_kd.runs.config import DEFAULT_VIEWS, ArchiveSection, LogitsSection, RunConfig
from composer_kd.runs.objects import algorithm_class
from composer_kd.runs.planned_run import PlannedRun, Use
from composer_kd.runs.recorders import check_recording
from composer_kd.storage.fetch import is_remote
from composer_kd.teachers.factory import kind_of

__all__ = ['Names', 'check_sources', 'nth', 'record_for_later', 'resolve']

# The archive's name of what is recorded while a run trains.
_TABLES = {'losses': 'loss', 'examples': 'adversarial'}


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


def resolve(config: RunConfig, names: Names, place: str) -> tuple[dict[str, Any], tuple[Use, ...]]:
    """Find every run that a run names.

    Args:
        config: The run's configuration.
        names: What it may name.
        place: Of the run in the file.

    Returns:
        Changes to its configuration, with run directories in the place of names; and what it uses of which runs.
    """
    uses: list[Use] = []
    algorithms = {}
    for name, options in config.algorithms.items():
        where = '.'.join(filter(None, [place, 'algorithms', name]))
        method = algorithm_class(name, place)
        needs = needs_of(method)
        for argument, need in needs.items():
            key = argument.removesuffix('_')
            options = _resolved(options, key, need, names, f'{where}.{key}', config.model, uses)
        algorithms[name] = options
    changes: dict[str, Any] = {'algorithms': algorithms}
    if config.replaces is not None:
        run = names.run(config.replaces, f'{place}.replaces' if place else 'replaces')
        changes['replaces'] = config.replaces if run is None else str(names.folder / run)
    return changes, tuple(dict.fromkeys(uses))


def _resolved(
    options: dict[str, Any], key: str, need: Need, names: Names, where: str, model: ModelSection, uses: list[Use]
) -> dict[str, Any]:
    if need.many:
        return {**options, key: _teachers(options.get(key), need, names, where, uses)}
    called = options.get(key)
    if called is None:
        return options  # Whether it may be left out is the algorithm's to say.
    if isinstance(called, dict) and need.kind in ('model', 'features', 'logits'):
        return {**options, key: _teacher(called, need, names, where, uses)[1]}
    if not isinstance(called, str):
        raise UserError(f'{where}: expected a run of the lineage or a run directory, got {called!r}')
    if fault := path_fault(called):
        raise UserError(f'{where}: {called!r} {fault}')
    elsewhere = called not in names.every | set(names.repeats)
    if need.kind == 'weights' and elsewhere and (names.begun or Path(called).is_file()):
        return options  # What a run began at may be gone by now. A file of weights is read in its turn.
    run = names.run(called, where)
    if run is None:
        _check_elsewhere(called, need, model, where)
        return options
    uses.append(Use(run, need.kind, where))
    return {**options, key: str(names.folder / run)}


def _teachers(teachers: Any, need: Need, names: Names, where: str, uses: list[Use]) -> list[Any]:
    if not isinstance(teachers, list) or not teachers or not all(isinstance(t, str | dict) for t in teachers):
        raise UserError(f'{where}: expected a list of runs of the lineage or of run directories, got {teachers!r}')
    found = [_teacher(teacher, need, names, where, uses) for teacher in teachers]
    if len({path for path, _ in found}) < len(found):
        raise UserError(f'{where}: a teacher is there twice: {teachers}; use mix weights to count one more')
    return [teacher for _, teacher in found]


def _teacher(teacher: Any, need: Need, names: Names, where: str, uses: list[Use]) -> tuple[str, Any]:
    """The path of a teacher's run, and the teacher with that path in the place of the name."""
    kind = None
    if isinstance(teacher, dict):
        try:
            kind = kind_of(teacher)
        except UserError as error:
            raise UserError(f'{where.rpartition(".")[0]}.{error}') from None
    called: Any = teacher if kind is None else teacher[kind]
    run = names.run(called, where)
    if run:
        looked_up = kind == 'recorded' and not teacher.get('fill')
        uses.append(Use(run, 'logits' if looked_up else need.kind, where))
    path = str(names.folder / run) if run else called
    return path, path if kind is None else {**teacher, kind: path}


def _check_elsewhere(called: str, need: Need, model: ModelSection, where: str) -> None:
    """Look into a run directory from elsewhere: it must have what is needed of it."""
    try:
        if need.kind in _TABLES:
            Archive(called).require(_TABLES[need.kind])
        if need.kind != 'weights':
            return
        elsewhere = FinishedRun.open(called)
        place = f'{elsewhere.directory.config_file}: model'
        theirs = parse_section(ModelSection, elsewhere.config.get('model'), place)
    except UserError as error:
        raise UserError(f'{where}: {error}') from None
    _check_same_model(theirs, model, called, where)


def _check_same_model(theirs: ModelSection, ours: ModelSection, called: str, where: str) -> None:
    """Refuse to begin at the weights of another model than one's own."""
    if not same_model(theirs, ours):
        raise UserError(
            f'{where}: {called!r} has the model {theirs.model_dump()} and this run {ours.model_dump()}; a warm start '
            f'needs the same model: change one of them, or name another run'
        )


# -- between runs of one file -----------------------------------------------------------------------------------------


def record_for_later(runs: Iterable[PlannedRun]) -> tuple[list[PlannedRun], list[str]]:
    """Let each run record what later runs of the file need of it.

    Returns:
        The runs, with sections ``archive`` that say so, and a line for each arm whose recording was not asked for.
    """
    found = {run.name: run for run in runs}
    lines: dict[str, None] = {}
    for run in list(found.values()):
        for use in run.uses:
            source = found[use.run]
            archive = _recording(source.config.archive or ArchiveSection(), use, run)
            if archive is None:
                continue
            what = 'adversarial examples' if use.kind == 'examples' else use.kind
            if use.kind == 'examples' and not source.makes_examples:
                raise UserError(
                    f'{use.where}: {source.name!r} makes no adversarial examples; give that run '
                    f'`algorithms: {{AdversarialRecycling: {{mode: recycle}}}}`'
                )
            trained = RunDir(source.folder).finished
            if trained and use.kind in _TABLES and not _has(source, _TABLES[use.kind]):
                raise UserError(
                    f'{use.where}: {source.name!r} was trained without recording {what}, which are recorded while a '
                    f'run trains; remove {source.folder} and run again, or name another run'
                )
            config = source.config.model_copy(update={'archive': archive})
            try:
                check_recording(config, '', list(config.algorithms), source.makes_examples)
            except UserError as error:
                raise UserError(f'{use.where}: {source.name!r} has to record {what}, but {error}') from None
            found[use.run] = replace(source, config=config)
            if not trained:
                lines[f'{source.arm} records {what}: {run.arm} uses them'] = None
    return list(found.values()), list(lines)


def _has(source: PlannedRun, table: str) -> bool:
    archive = Archive(source.folder)
    return archive.exists and bool(archive.numbers(table))


def _recording(archive: ArchiveSection, use: Use, run: PlannedRun) -> ArchiveSection | None:
    """The section with what is used in it; ``None`` where it is there already, or need not be recorded."""
    if use.kind == 'losses' and not archive.losses:
        return archive.model_copy(update={'losses': True})
    if use.kind == 'examples' and not archive.adversarial:
        return archive.model_copy(update={'adversarial': True})
    if use.kind == 'logits' and archive.logits is None:
        data = run.config.data
        views = 1 if data.augment.name == 'none' else data.views or DEFAULT_VIEWS
        return archive.model_copy(update={'logits': LogitsSection(views=views)})
    return None


def check_sources(runs: Mapping[str, PlannedRun]) -> None:
    """Refuse a run that uses of another one of its file what does not fit it.

    Args:
        runs: Those of the file, by name.
    """
    for run in runs.values():
        for use in run.uses:
            source = runs[use.run]
            if use.kind == 'weights':
                _check_same_model(source.config.model, run.config.model, use.run, use.where)
            elif use.kind == 'logits':
                _check_logits(source, run, use.where)
            elif use.kind == 'examples' and run.config.data.image_size != source.config.data.image_size:
                raise UserError(
                    f'{use.where}: the examples of {use.run!r} are of images with data.image_size: '
                    f'{source.config.data.image_size}, and this run has {run.config.data.image_size}; make them the '
                    f'same'
                )


def _check_logits(source: PlannedRun, run: PlannedRun, where: str) -> None:
    """It must record logits in the views that will be asked for."""
    name, archive, ours, theirs = source.name, source.config.archive, run.config.data, source.config.data
    assert archive is not None
    assert archive.logits is not None
    changing = [
        one
        for one, options in run.config.algorithms.items()
        if algorithm_class(one).__name__ in CHANGE_IMAGES | DROP_SAMPLES and options.get('teachers_see') != 'clean'
    ]
    if changing:
        raise UserError(
            f'{where}: {name!r} is looked up, which answers to the image that a key names, and {changing[0]} makes '
            f'others of them; use {{live: {name}}}, or leave that out'
        )
    recorded = archive.logits.views
    asks_for_all = ours.augment.name != 'none' and not run.some_epochs_alone
    if asks_for_all and (ours.views is None or ours.views > recorded):
        asked = 'a fresh view every epoch' if ours.views is None else f'{ours.views} views'
        raise UserError(
            f'{where}: {name!r} records {recorded} views and this run asks for {asked}; set its data.views '
            f'to {recorded}, raise archive.logits.views there, or add fill: true'
        )
    padding = () if ours.augment.name == 'resized_crop' else ('padding',)
    for key in ('augment', 'flip', *padding, 'augment_seed', 'image_size'):
        if getattr(ours, key) != getattr(theirs, key):
            raise UserError(
                f'{where}: {name!r} is recorded with data.{key}: {getattr(theirs, key)} and this run has '
                f'{getattr(ours, key)}; make them the same, or use {{live: {name}}}'
            )
