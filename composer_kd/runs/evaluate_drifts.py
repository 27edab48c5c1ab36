"""``composer-kd evaluate --drifts`` and ``evaluate.drifts``: measure finished runs under drifts of their test data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist
from torch import Tensor

from composer_kd.archive import RunDir
from composer_kd.archive.archive import manifest_update
from composer_kd.archive.evaluations import DriftFile
from composer_kd.archive.manifest import DRIFTS_FILE, Manifest, verify_file
from composer_kd.callbacks.evaluate_drifts import answers_to, groups_in, quality_of
from composer_kd.core.errors import UserError
from composer_kd.core.options import Section, parse_section
from composer_kd.data.drift import Drift
from composer_kd.data.drift.drifted_tests import DriftChecker, DriftedTests
from composer_kd.data.drift.scenarios import CorruptionGrid, Scenarios, check_scenario_files, scenarios_of
from composer_kd.data.section import DataSection
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.config import RunConfig
from composer_kd.runs.plan import Plan
from composer_kd.runs.process import keep_freed_memory
from composer_kd.runs.yaml_file import read_yaml
from composer_kd.storage.distributed import on_rank_zero, raise_on_all_ranks
from composer_kd.storage.locks import lock_or_refuse
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import BATCH_SIZE, Inference

__all__ = ['measure_configured', 'measure_robustness', 'read_scenarios', 'refuse_misfits']


class _DriftsAlone(Section):
    drifts: Scenarios = None


def read_scenarios(drifts: str, severities: Sequence[float] | None = None) -> dict[str, tuple[Drift, ...]]:
    """Read the test-set shifts that the command line asks for.

    Args:
        drifts: A YAML file with the key ``evaluate.drifts`` among others; or ``all``, or kinds of corruption, parted by
            commas.
        severities: Of each kind of corruption.
    """
    if drifts.endswith(('.yaml', '.yml')) or Path(drifts).is_file():
        if severities is not None:
            raise UserError('--severities: these are of kinds of corruption, and a file says its own; leave it out')
        section = read_yaml(Path(drifts)).get('evaluate') or {}
        wanted = section.get('drifts') if isinstance(section, dict) else None
        if not wanted or not isinstance(wanted, dict):
            raise UserError(f'{drifts}: evaluate.drifts: there is none in this file; add some, as in docs/drift.md')
        return scenarios_of(parse_section(_DriftsAlone, {'drifts': wanted}, f'{drifts}: evaluate').drifts)
    grid: dict[str, Any] = {'kinds': 'all' if drifts == 'all' else drifts.split(',')}
    if severities is not None:
        grid['severities'] = list(severities)
    return scenarios_of({'--drifts': parse_section(CorruptionGrid, grid, '--drifts')})


def refuse_misfits(plan: Plan) -> None:
    """Find drifts that do not fit their data before the first run trains, not when their own turn comes."""
    fit, looked_at = DriftChecker(), set[str]()
    for planned in plan.runs:
        config, scenarios = planned.config, scenarios_of(planned.config.evaluate.drifts)
        asked = config.model_dump_json(include={'data', 'evaluate'})
        if not (config.data.drift or scenarios) or asked in looked_at:
            continue
        run = RunDir(planned.folder)
        if not on_rank_zero(lambda run=run: run.finished):
            looked_at.add(asked)
            with raise_on_all_ranks():
                fit.check(config.data, scenarios, '' if planned.lineage is None else f'lineage.{planned.arm}')


def measure_configured(config: RunConfig, run: RunDir, say: Callable[[str], None]) -> None:
    """Measure what ``evaluate.drifts`` of a finished run asks for and its file lacks."""
    scenarios = scenarios_of(config.evaluate.drifts)

    def done() -> bool:
        manifest = run.manifest()
        return DRIFTS_FILE in manifest.files and not _missing(_measured(run, manifest), scenarios)

    if scenarios and not on_rank_zero(done):
        measure_robustness(run, scenarios, device=config.device, say=say)


def measure_robustness(
    path: str | Path | RunDir,
    scenarios: Mapping[str, Sequence[Drift]],
    *,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
    say: Callable[[str], None] = print,
) -> None:
    """Ask a finished run's model about its test data under drifts, and keep what follows in ``drifts.json``.

    What the file holds of these weights stays, and is not measured again. All ranks call this together.

    Args:
        path: The run directory.
        scenarios: Names to drifts, at least one, each in the place of those of the run's own data.
        batch_size: Images in a forward pass.
        device: ``auto``, ``cpu`` or ``gpu``.
        say: Takes lines for the person who waits.
    """
    if batch_size < 1:
        raise UserError(f'batch_size: a whole number from 1 on, got {batch_size}')
    check_scenario_files(scenarios, 'drifts')
    finished = on_rank_zero(lambda: FinishedRun.open(path, to_write=True))
    run, manifest = finished.directory, finished.manifest
    if finished.config.get('threads'):
        torch.set_num_threads(finished.config['threads'])
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(lock_or_refuse(run.path / 'archive' / '.drift.lock', str(run))))
        found = on_rank_zero(lambda: _measured(run, run.manifest()))
        before = len(scenarios) - len(_missing(found, scenarios))
        if found is None or before < len(scenarios):
            tests = _open_tests(finished)
            fresh = _nothing_yet(manifest, tests)
            if found is None or (found.fingerprint, found.groups) != (fresh.fingerprint, fresh.groups):
                found, before = fresh, 0
            ask = _Model(finished, device, batch_size)
            found.clean = found.clean or ask(tests.clean)
            for name in _missing(found, scenarios):
                with raise_on_all_ranks():
                    dataset = tests.under(scenarios[name], f'{run}: drifts.{name}')
                shown = {'drift': _described(scenarios[name]), 'fingerprint': dataset.fingerprint}
                found.drifts[name] = {**shown, **ask(dataset)}
                on_rank_zero(partial(_write, run, found))
        elif DRIFTS_FILE not in manifest.files:
            on_rank_zero(partial(_write, run, found))  # Killed before the manifest could name it.
    say(f'{run}: {_line(found, scenarios, before)}')


def _described(drifts: Sequence[Drift]) -> list[dict[str, Any]]:
    return [drift.description('test') for drift in drifts]


def _missing(found: DriftFile | None, scenarios: Mapping[str, Sequence[Drift]]) -> list[str]:
    return [name for name, drifts in scenarios.items() if found is None or not found.knows(name, _described(drifts))]


def _measured(run: RunDir, manifest: Manifest) -> DriftFile | None:
    """What was measured of the weights that the run has now; a damaged file is refused."""
    assert manifest.weights is not None
    if DRIFTS_FILE in manifest.files and (run.path / DRIFTS_FILE).exists():
        verify_file(run.path, manifest, DRIFTS_FILE)
    return DriftFile.read(run.path, manifest.weights.hash)


def _open_tests(run: FinishedRun) -> DriftedTests:
    where = f'{run.directory.config_file}: data'
    section = parse_section(DataSection, run.config.get('data', {}), where)
    with raise_on_all_ranks():
        section.check_source(where)
        tests = DriftedTests(section)
        # What drifts add stands behind the fingerprint of the data as they are stored.
        if not f'{run.manifest.data.fingerprint}-'.startswith(f'{tests.info.fingerprint}-'):
            raise UserError(
                f'{run}: the data in {section.source} is not what it was trained on; put that back to ask its model'
            )
    return tests


def _nothing_yet(manifest: Manifest, tests: DriftedTests) -> DriftFile:
    assert manifest.weights is not None
    return DriftFile(
        manifest.weights.hash, manifest.finished_epoch or 0, tests.clean.fingerprint, groups_in(tests.clean.info)
    )


class _Model:
    """The run's model, asked how good it is on a data set, in the precision of its training."""

    def __init__(self, run: FinishedRun, device: str, batch_size: int):
        self._state = Inference.like(run.config, device, run.manifest.data.num_classes)
        if self._state.device.name == 'cpu':
            keep_freed_memory()
        self._teacher = RunTeacher(run)
        self._teacher.place(self._state)
        self._batch_size = max(1, batch_size // dist.get_world_size())

    def __call__(self, dataset: Any) -> dict[str, Any]:
        self._teacher.read_normalization(dataset, self._state.device)
        return quality_of(answers_to(dataset, self._answer, self._state.device, self._batch_size), dataset)

    def _answer(self, batch: Any) -> Tensor:
        try:
            return self._teacher.outputs(batch, self._state).logits
        except torch.OutOfMemoryError as error:
            raise UserError('the device has no memory for batches of this size; lower --batch-size') from error


def _write(run: RunDir, found: DriftFile) -> None:
    with manifest_update(run, DRIFTS_FILE):
        found.write(run.path)


def _line(found: DriftFile, scenarios: Mapping[str, Any], before: int) -> str:
    accuracies = {name: found.drifts[name]['accuracy'] for name in scenarios}
    clean = f'test accuracy {100 * found.clean["accuracy"]:.1f} %'
    worst = min(accuracies, key=accuracies.__getitem__)
    mean = sum(accuracies.values()) / len(accuracies)
    known = f', {before} of them measured before' if before else ''
    count = f'{len(scenarios)} drift{"s" if len(scenarios) > 1 else ""}'
    return f'{clean}, {100 * mean:.1f} % under {count}, {100 * accuracies[worst]:.1f} % under {worst}{known}'
