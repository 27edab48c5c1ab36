"""``composer-kd retrain``: an earlier model, new data, and the new model for a fraction of the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from composer_kd.archive.archive import manifest_update
from composer_kd.archive.run_dir import RunDir
from composer_kd.callbacks.evaluate_drifts import answers_to
from composer_kd.core.errors import UserError, name_fault
from composer_kd.core.options import parse_section
from composer_kd.data.comparison import DataComparison, TrainingPart, compare
from composer_kd.data.dataset import KeyedImages
from composer_kd.data.drift.drifted_tests import DriftedTests
from composer_kd.data.loaders import open_parts
from composer_kd.data.section import DataSection
from composer_kd.models.finished_run import FinishedRun
from composer_kd.models.registry import ModelSection, same_model
from composer_kd.report.render.text import MISSING, PERCENT, Table
from composer_kd.runs.execute import execute
from composer_kd.runs.plan import make_plan
from composer_kd.runs.process import join_ranks, keep_freed_memory
from composer_kd.runs.progress import RunProgress, duration_text
from composer_kd.runs.retrain_recipe import FullTraining, Retraining, plan_retraining
from composer_kd.runs.yaml_file import apply_overrides
from composer_kd.storage.atomic import atomic_write
from composer_kd.storage.distributed import on_rank_zero, raise_on_all_ranks
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import BATCH_SIZE, Inference

__all__ = ['RETRAIN_FILE', 'Retrained', 'retrain']

RETRAIN_FILE = 'retrain.json'
_FORMAT, _VERSION = 'composer_kd.retrain', 1


@dataclass(frozen=True)
class Judged:
    """How good a model is, and what it cost.

    Attributes:
        run: Its run directory.
        role: ``'earlier'``, ``'retrained'`` or ``'anew'``.
        accuracy: On the new test data.
        earlier_accuracy: On the earlier test data; ``None`` where that is no longer at hand.
        epochs: How many it was trained.
        work: Multiply-adds of its training, teachers inside.
        seconds: Of its training.
    """

    run: str
    role: str
    accuracy: float
    earlier_accuracy: float | None
    epochs: float
    work: float
    seconds: float


@dataclass(frozen=True)
class Retrained:
    """What came of a retraining.

    Attributes:
        run: The run directory of the new model; not there yet after a dry run.
        comparison: How the new data differs from the earlier run's.
        plan: What was laid out.
        models: The earlier model, and after a training the new one and the one trained anew.
        full: The training that costs are a part of.
    """

    run: Path
    comparison: DataComparison
    plan: Retraining
    models: tuple[Judged, ...]
    full: FullTraining

    def table(self) -> Table:
        """Compare the models: accuracy on new and on earlier test data, and what each cost."""
        full_work = next((one.work for one in self.models if one.run == self.full.run), 0.0) or self.full.work
        rows = [
            (
                f'{one.role}: {one.run}',
                PERCENT.text(one.accuracy),
                MISSING if one.earlier_accuracy is None else PERCENT.text(one.earlier_accuracy),
                f'{one.epochs:g}',
                f'{100 * one.work / full_work:.0f}' if full_work else MISSING,
                duration_text(one.seconds),
            )
            for one in self.models
        ]
        columns = ('model', 'new test data, %', 'earlier test data, %', 'epochs', 'work, %', 'training')
        return Table(f'Accuracy, and work as a part of that of {self.full.run}', columns, tuple(rows))

    def as_json(self) -> dict[str, Any]:
        return {
            'format': _FORMAT,
            'version': _VERSION,
            'run': str(self.run),
            'data': asdict(self.comparison),
            'way': self.plan.way,
            'planned_work': self.plan.work,
            'models': [asdict(one) for one in self.models],
            'full_training': self.full.as_json(),
        }


def retrain(
    run: str | Path,
    data: str | Path,
    *,
    name: str | None = None,
    budget: float | None = None,
    model: str | Mapping[str, Any] | None = None,
    compare: bool = False,
    changes: Sequence[str] = (),
    dry_run: bool = False,
    yaml_file: Path | None = None,
    device: str = 'auto',
    say: Callable[[str], None] = print,
    bar: bool | None = None,
) -> Retrained:
    """Retrain the model of a finished run on new data; repeating it goes on where it stopped.

    Args:
        run: The run directory.
        data: The new data: a folder of shards, or a remote.
        name: Of the new run, whose directory lies beside ``run``; the data's name by default.
        budget: The part of the full training's work that it may take, above 0 and at most 1. By default 0.2, and 0.5
            where another model is to be taught.
        model: Another model, by name or with options, which the earlier one teaches; by default the same, which begins
            at the earlier weights.
        compare: Train anew as well, at the full length, to measure what was saved.
        changes: ``key=value`` texts for the new run, as ``data.augment=resized_crop``.
        dry_run: Stop after the plan.
        yaml_file: Write the file that would be run there, and stop after the plan.
        device: ``auto``, ``cpu`` or ``gpu``.
        say: Takes lines for the person who waits.
        bar: Whether Composer's bar is shown; ``None`` shows it on a terminal.
    """
    if budget is not None and not 0 < budget <= 1:
        raise UserError(f'budget: expected a part of the full training, above 0 and at most 1, got {budget!r}')
    join_ranks(device)
    earlier = on_rank_zero(lambda: FinishedRun.open(run))
    new_name = name or Path(str(data).rstrip('/')).name
    if fault := name_fault(new_name):
        raise UserError(f'--name: {new_name!r} {fault}')
    folder = earlier.path.parent
    _refuse_taken_name(earlier, folder / new_name)
    with raise_on_all_ranks():
        judge = _Judge(earlier, str(data), changes, device)
    full = _full_training(earlier)
    plan = plan_retraining(
        earlier, full, judge.comparison, judge.section,
        name=new_name, folder=str(folder), budget=budget, model=_other_model(model, changes, earlier),
        seed=int(earlier.config.get('seed', 0)) + 1, compare=compare,
    )  # fmt: skip
    values = apply_overrides(plan.values, [one for one in changes if _key(one) not in ('data', 'model')])
    for line in judge.comparison.lines():
        say(f'{data}: {line}')
    before = judge.model(earlier, 'earlier')
    say(f'{earlier}: {_accuracies(before)}')
    cost = f'about {plan.work:.0%} of the work of {full.run}{_time(earlier, plan, full)}'
    say(f'plan: {new_name} {plan.way}; {plan.duration}, {cost}')
    found = Retrained(folder / new_name, judge.comparison, plan, (before,), full)
    planned = make_plan(values, where='retrain')
    if yaml_file is not None:
        on_rank_zero(lambda: atomic_write(yaml_file, yaml.safe_dump(values, sort_keys=False, width=120)))
        say(f'{yaml_file}: written; edit it and run `composer-kd run {yaml_file}`')
    if dry_run or yaml_file is not None:
        return found
    progress = RunProgress(bar)
    execute(planned, progress)
    roles = ('retrained', 'anew')
    after = [judge.model(FinishedRun.open(one.folder), role) for role, one in zip(roles, planned.runs, strict=False)]
    found = Retrained(found.run, found.comparison, plan, (before, *after), full)
    on_rank_zero(lambda: _write(found))
    say(f'\n{found.table().text()}')
    return found


class _Judge:
    """The old and the new data, opened once, and models judged on their test parts.

    Attributes:
        section: Of the new data, as a YAML file says it.
        comparison: How its training part differs from the earlier one.
    """

    def __init__(self, earlier: FinishedRun, source: str, changes: Sequence[str], device: str):
        self._earlier = earlier
        self._device = device
        manifest = earlier.manifest
        then = dict(earlier.config.get('data', {}))
        # The net expects images normalised as those that it was trained on.
        constants = {'mean': list(manifest.data.normalization.mean), 'std': list(manifest.data.normalization.std)}
        taken = {
            key: value for key, value in then.items() if key not in ('drift', 'subset', 'subset_seed', 'synthetic')
        }
        own = [one for one in changes if _key(one) == 'data']
        self.section: dict[str, Any] = apply_overrides({'data': {**taken, 'source': source, **constants}}, own)['data']
        parts, section = self._open(self.section, '--data')
        info = parts.info
        if list(info.shape) != list(manifest.data.shape):
            raise UserError(
                f'--data: {source} has images of {list(info.shape)}, {earlier} was trained on '
                f'{list(manifest.data.shape)}; use data of that shape, or resize it with data.image_size'
            )
        self._tests = parts.clean
        training = TrainingPart.of(open_parts(section, '--data')[0]['train'].table, info)
        earlier_parts = self._earlier_parts(then)
        self._earlier_tests = None if earlier_parts is None else earlier_parts[0].clean
        known = manifest.data.classes
        if known is None:
            known = (
                list(earlier_parts[0].clean.classes)
                if earlier_parts
                else list(info.classes)[: manifest.data.num_classes]
            )
        self.comparison = compare(training, None if earlier_parts is None else earlier_parts[1], known)
        if lost := self.comparison.lost_classes:
            raise UserError(
                f'--data: {source} lacks the class {lost[0]!r}, which {earlier} knows; a retrained model keeps its '
                f'classes: add samples of it, or train anew with `composer-kd run`'
            )
        self._known = {earlier.path: tuple(known)}

    @staticmethod
    def _open(values: Mapping[str, Any], where: str) -> tuple[DriftedTests, DataSection]:
        section = parse_section(DataSection, dict(values), where)
        section.check_source(where)
        return DriftedTests(section, where), section

    def _earlier_parts(self, values: Mapping[str, Any]) -> tuple[DriftedTests, TrainingPart] | None:
        """The earlier run's data; ``None`` where it has gone or is other data by now."""
        try:
            tests, section = self._open(values, 'data')
            if not f'{self._earlier.manifest.data.fingerprint}-'.startswith(f'{tests.info.fingerprint}-'):
                return None
            parts, info = open_parts(section, 'data')
        except UserError:
            return None
        return tests, TrainingPart.of(parts['train'].table, info)

    def model(self, run: FinishedRun, role: str) -> Judged:
        """Judge a run's model; all ranks call this together."""
        state = Inference.like(run.config, self._device, run.manifest.data.num_classes)
        if state.device.name == 'cpu':
            keep_freed_memory()
        teacher = RunTeacher(run)
        teacher.place(state)
        classes = self._known.get(run.path) or tuple(self._tests.classes)

        def accuracy(dataset: KeyedImages) -> float:
            teacher.read_normalization(dataset, state.device)
            logits = answers_to(
                dataset, lambda batch: teacher.outputs(batch, state).logits, state.device, BATCH_SIZE, len(classes)
            )
            numbers = {name: number for number, name in enumerate(dataset.classes)}
            answers = torch.tensor([numbers.get(name, -1) for name in classes])[logits.argmax(dim=1)]
            return float((answers == torch.from_numpy(dataset.labels)).double().mean())

        last = run.directory.metrics()[-1]
        work = sum(
            float(last.get(f'multiply_adds_{part}_total') or 0) for part in ('student', 'teacher', 'attack', 'other')
        )
        return Judged(
            run=str(run),
            role=role,
            accuracy=accuracy(self._tests),
            earlier_accuracy=None if self._earlier_tests is None else accuracy(self._earlier_tests),
            epochs=float(last['epoch']),
            work=work,
            seconds=float(last.get('seconds_train_total') or 0),
        )


def _refuse_taken_name(earlier: FinishedRun, path: Path) -> None:
    """Refuse a directory of another run; one of this retraining goes on."""
    there = RunDir(path)
    if there.config_file.is_file() and there.read_config().get('replaces') != str(earlier):
        raise UserError(f'{path}: another run is there; name the new one with --name')


def _full_training(run: FinishedRun) -> FullTraining:
    """The training that a run's own budget was a part of, or its own where it was no retraining."""
    try:
        found = json.loads((run.path / RETRAIN_FILE).read_text(encoding='utf-8'))
        return FullTraining(**found['full_training'])
    except FileNotFoundError:
        return FullTraining.of(run)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f'{run.path / RETRAIN_FILE}: damaged; restore it, or remove it to count from {run} on'
        ) from None


def _other_model(
    model: str | Mapping[str, Any] | None, changes: Sequence[str], earlier: FinishedRun
) -> dict[str, Any] | None:
    """The section of another model than the earlier run's; ``None`` for the same."""
    values: dict[str, Any] = {'model': earlier.config['model']}
    if model is not None:
        values['model'] = {'name': model} if isinstance(model, str) else dict(model)
    values = apply_overrides(values, [one for one in changes if _key(one) == 'model'])
    if isinstance(values['model'], str):
        values['model'] = {'name': values['model']}
    found = parse_section(ModelSection, values['model'], 'model')
    theirs = parse_section(ModelSection, earlier.config['model'], f'{earlier.directory.config_file}: model')
    return None if same_model(found, theirs) else values['model']


def _key(change: str) -> str:
    """The section that a ``key=value`` text changes."""
    return change.partition('=')[0].partition('.')[0]


def _accuracies(one: Judged) -> str:
    text = f'{100 * one.accuracy:.1f} % on the new test data'
    return text if one.earlier_accuracy is None else f'{text}, {100 * one.earlier_accuracy:.1f} % on the earlier'


def _time(earlier: FinishedRun, plan: Retraining, full: FullTraining) -> str:
    """An estimate by the speed of the earlier run, where it says how fast it was."""
    lines = earlier.directory.metrics()
    seconds, work = (lines[-1].get(key) for key in ('seconds_train_total', 'multiply_adds_student_total'))
    if not seconds or not work:
        return ''
    return f', about {duration_text(plan.work * full.work * seconds / work)} at its speed'


def _write(found: Retrained) -> None:
    text = json.dumps(found.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + '\n'
    with manifest_update(RunDir(found.run), RETRAIN_FILE):
        atomic_write(found.run / RETRAIN_FILE, text)
