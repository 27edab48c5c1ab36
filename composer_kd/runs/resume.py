"""Decide how a run directory goes on: finished, from a checkpoint, anew, or not at all and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.archive.archive import manifest_update
from composer_kd.archive.manifest import Manifest, damage, read_manifest
from composer_kd.archive.run_dir import RunDir
from composer_kd.archive.table import is_table
from composer_kd.core.errors import UserError
from composer_kd.core.options import keys_that_may_change
from composer_kd.data.loaders import open_source
from composer_kd.data.section import DataSection
from composer_kd.data.synthetic import SYNTHETIC
from composer_kd.runs.config import RunConfig
from composer_kd.runs.planned_run import PlannedRun

__all__ = ['STORED', 'WayOn', 'stored_data', 'way_on']

# The key of run.yaml that names the data as they are stored; no key of a YAML.
STORED = 'stored_data'


@dataclass(frozen=True)
class WayOn:
    """How a run directory goes on.

    Attributes:
        finished: Nothing is left to train.
        checkpoint: What the training continues from; ``None`` begins anew.
        weights: The hash of the weights that it ended with before, where some of its files are made again.
        note: What the person who waits should know.
    """

    finished: bool = False
    checkpoint: Path | None = None
    weights: str | None = None
    note: str | None = None


def way_on(run: RunDir, planned: PlannedRun) -> WayOn:
    """Decide how ``run`` goes on; refuse other settings, other data, and damage that no training mends."""
    manifest = read_manifest(run.path) if run.manifest_file.is_file() else None
    if not run.config_file.exists():
        return _without_settings(run, manifest)
    lost = _lost_files(run, manifest) if manifest is not None else []
    _refuse_changes(run, planned, finished=manifest is not None and manifest.finished and not lost)
    _refuse_other_data(run, planned, manifest)
    _renew_what_it_replaces(run, planned)
    if manifest is None or manifest.weights is None:
        return WayOn(checkpoint=run.checkpoint())
    if not lost:
        return WayOn(finished=True)
    more = f' and {len(lost) - 1} more' if len(lost) > 1 else ''
    note = f'finished before, but {lost[0]}{more} is damaged or missing: made again'
    return WayOn(checkpoint=run.checkpoint(), weights=manifest.weights.hash, note=note)


def stored_data(section: DataSection) -> dict[str, Any]:
    """Name the data of a section as they are stored, before any drift: fingerprint and size of both splits."""
    folder = open_source(section, 'data')
    return {'fingerprint': folder.fingerprint, 'train': len(folder.train), 'test': len(folder.test)}


def _without_settings(run: RunDir, manifest: Manifest | None) -> WayOn:
    """``run.yaml`` is written when a first step has been trained: without it, nothing has been that counts."""
    if (manifest is not None and manifest.finished) or any(run.checkpoints.glob('*-rank0.pt')):
        raise UserError(
            f'{run.config_file}: this file of the run is missing; restore it, or remove {run} to train anew'
        )
    if manifest is None:
        return WayOn()
    return WayOn(note='was stopped before its first step had ended: begins again')


def _lost_files(run: RunDir, manifest: Manifest) -> list[str]:
    """Name the files that a training makes again; refuse where one is damaged or missing that none does."""
    lost = []
    for name, record in manifest.files.items():
        path = run.path / name
        if not path.is_file():
            problem = 'it is missing'
        elif is_table(name) and path.stat().st_size == record.bytes:
            continue  # Others may be writing tables now, and who reads one compares its hash.
        else:
            problem = damage(path, record)
        if problem is None:
            continue
        if name in (run.config_file.name, run.metrics_file.name) or _recorded_in_training(manifest, name):
            raise UserError(
                f'{path}: {problem}, and what was {"recorded" if is_table(name) else "written"} while the run trained '
                f'cannot be made again; restore the file, or remove {run} to train anew'
            )
        if not is_table(name):
            lost.append(name)
    return lost


def _recorded_in_training(manifest: Manifest, name: str) -> bool:
    """Whether a table was recorded while the run trained; samples serve all tables."""
    record = manifest.archive
    if record is None or not is_table(name):
        return False
    trained = [*record.loss.values(), *record.adversarial.values()]
    trained += [table for table in record.logits.values() if (table.model_extra or {}).get('source') == 'training']
    return name in [table.file for table in trained] or (name == record.samples and bool(trained))


def _refuse_changes(run: RunDir, planned: PlannedRun, finished: bool) -> None:
    begun = {key: value for key, value in run.read_config().items() if key != STORED}
    # A key that is younger than the run: what it did before is the default.
    begun['data'] = {**DataSection().model_dump(mode='json'), **begun.get('data', {})}
    before, now = _flat(begun), _flat(planned.resolved())
    changed = [
        f'{key}: {before.get(key, "not set")} -> {now.get(key, "not set")}'
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not _is_free(key)
    ]
    if not finished and _recorded_views(before) != _recorded_views(now):
        changed.append(f'archive.logits, from training: {_recorded_views(before)} -> {_recorded_views(now)}')
    if changed:
        shown = '; '.join(changed[:4]) + (f'; and {len(changed) - 4} more' if len(changed) > 4 else '')
        raise UserError(
            f'{run.path} was begun with other settings ({shown}); '
            f'put them back, choose another save_folder, or delete {run.path} to begin anew'
        )


def _is_free(key: str) -> bool:
    of_algorithm = key.startswith('algorithms.') and key.endswith('.trust_pickle')
    return of_algorithm or any(f'{key}.'.startswith(f'{free}.') for free in keys_that_may_change(RunConfig))


def _refuse_other_data(run: RunDir, planned: PlannedRun, manifest: Manifest | None) -> None:
    """Refuse data that changed under the same path since the run began."""
    section = planned.config.data
    if manifest is not None and manifest.finished:
        try:
            section.check_source('data')
        except UserError:
            return  # A finished run needs its data no more.
        if section.source == SYNTHETIC:
            return  # It is drawn from its settings, which have been compared.
    stored = run.read_config().get(STORED)
    if not isinstance(stored, Mapping):
        if manifest is None or not manifest.finished:
            return  # Begun by a version that did not write it.
        stored = {'fingerprint': manifest.data.fingerprint}
    now = stored_data(section)
    then = str(stored.get('fingerprint'))
    # Behind the stored data's stand the size of the images and the drifts, which are settings.
    if f'{then}-'.startswith(f'{now["fingerprint"]}-'):
        return
    counts = f'{now["train"]:,} training and {now["test"]:,} test samples'
    if 'train' in stored:
        counts += f', then {stored["train"]:,} and {stored["test"]:,}'
    raise UserError(
        f'{run.path} was begun on other data: {section.source} now has {counts} (fingerprint {now["fingerprint"][:8]}, '
        f'then {then[:8]}); put that data back, or choose another save_folder for a run on these'
    )


def _renew_what_it_replaces(run: RunDir, planned: PlannedRun) -> None:
    """This may be said later: the report reads it out of ``run.yaml``."""
    config = run.read_config()
    if config.get('replaces') == planned.config.replaces:
        return
    renewed = {**config, 'replaces': planned.config.replaces}
    if run.finished:
        with manifest_update(run, run.config_file.name):
            run.write_config(renewed)
    else:
        run.write_config(renewed)


def _recorded_views(flat: dict[str, Any]) -> str:
    """What is recorded of the training itself: it decides which views the last epochs show."""
    if flat.get('archive.logits.from') != 'training':
        return 'nothing'
    return f'{flat["archive.logits.views"]} views, top_k {flat["archive.logits.top_k"]}'


def _flat(values: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    if not values:
        return {prefix: {}} if prefix else {}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f'{prefix}.{key}' if prefix else str(key))
    return flat
