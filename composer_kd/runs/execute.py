"""Doing what a plan says: each run after its teachers, what is finished left alone, what was interrupted continued."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, State
from composer.core.precision import get_precision_context
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.algorithms.roles import HasTeachers
from composer_kd.archive import Archive
from composer_kd.archive.manifest import SCHEMA, Manifest, file_records, write_manifest
from composer_kd.archive.predictions import predictions_file
from composer_kd.archive.run_dir import RunDir
from composer_kd.callbacks.evaluate_attacks import ATTACKS_FILE
from composer_kd.core.errors import UserError
from composer_kd.models import inference_seconds, multiply_adds, parameters, save_weights, weights_hash
from composer_kd.models.finished_run import FinishedRun
from composer_kd.runs.build import Built, build_trainer
from composer_kd.runs.evaluate_attacks import attack_configured
from composer_kd.runs.evaluate_drifts import measure_configured
from composer_kd.runs.plan import Plan
from composer_kd.runs.planned_run import PlannedRun
from composer_kd.runs.predictions import evaluation, kept_predictions, recorded_splits, teacher_runs
from composer_kd.runs.progress import RunProgress
from composer_kd.runs.recorders import make_recorders, record_configured, reopen, supply_missing
from composer_kd.runs.resume import STORED, WayOn, stored_data, way_on
from composer_kd.storage.distributed import on_rank_zero
from composer_kd.storage.locks import MachineLoad

__all__ = ['execute']


def execute(plan: Plan, progress: RunProgress) -> None:
    """Train every run of ``plan`` that is not finished, in its order, on all ranks of this launch."""
    progress.start(plan)
    for number, planned in enumerate(plan.runs):
        _execute_one(planned, number, progress)


def _execute_one(planned: PlannedRun, number: int, progress: RunProgress) -> None:
    run = RunDir(planned.folder)
    with ExitStack() as stack:

        def enter() -> WayOn:
            stack.enter_context(run.lock())
            return way_on(run, planned)

        goes_on = on_rank_zero(enter)
        if goes_on.finished:
            progress.finished_before(number, run)
            supply_missing(planned.config, run, progress.say, progress.bar)
            attack_configured(planned.config, run, progress.say)
            measure_configured(planned.config, run, progress.say)
            return
        stack.enter_context(presence := MachineLoad())
        progress.begin_run(number, planned, goes_on)
        on_rank_zero(lambda: reopen(planned.config, run, goes_on.checkpoint))
        built = build_trainer(
            planned.config,
            run,
            goes_on.checkpoint,
            callbacks=[*make_recorders(planned.config, run), progress, WriteConfigOnFirstStep(run, planned)],
            say=progress.say,
            progress_bar=progress.bar,
            count_runs=presence.count,
        )
        try:
            _fit(built, run)
            on_rank_zero(lambda: _finish(run, planned, built, goes_on, progress.say))
            on_rank_zero(lambda: run.prune_checkpoints(planned.config.keep_checkpoints))
        finally:
            built.trainer.close()
            release_state(built.trainer.state)
        record_configured(planned.config, FinishedRun.open(run), built.data.train_set, progress.say, progress.bar)
        attack_configured(planned.config, run, progress.say)
        measure_configured(planned.config, run, progress.say)
        progress.end_run(number, run)


class WriteConfigOnFirstStep(Callback):
    """Write ``run.yaml`` when a first step has been trained: until then, settings may be put right and tried again."""

    def __init__(self, run: RunDir, planned: PlannedRun):
        self._run, self._planned = run, planned
        self._done = False

    def batch_end(self, state: State, logger: Logger) -> None:
        if not self._done:
            self._done = True
            on_rank_zero(lambda: None if self._run.config_file.exists() else self._run.write_config(self._resolved()))

    def _resolved(self) -> dict[str, Any]:
        return {**self._planned.resolved(), STORED: stored_data(self._planned.config.data)}


def _fit(built: Built, run: RunDir) -> None:
    state = built.trainer.state
    if state.max_duration is not None and state.timestamp >= state.max_duration:
        return  # Trained to its end and killed before it could say so.
    try:
        built.trainer.fit()
    except RuntimeError as error:
        # What torch.save says where other writers raise an OSError: its zip writer, and nothing of the disk.
        if 'inline_container' not in str(error) and 'PytorchStreamWriter' not in str(error):
            raise
        raise UserError(
            f'{run.checkpoints}: the checkpoint cannot be written: the disk is full or out of quota; the one before is '
            f'kept: free some space and repeat the command to continue'
        ) from error


def release_state(state: State) -> None:
    """Composer has the state of every Trainer closed once more when Python ends, and so never frees what it holds.

    A lineage of fifty runs would keep fifty models, optimizers and data sets. What that closing looks at stays: a list
    of callbacks, empty.
    """
    vars(state).clear()
    state._callbacks = []


def _finish(run: RunDir, planned: PlannedRun, built: Built, goes_on: WayOn, say: Callable[[str], None]) -> None:
    """Leave what later runs need; the manifest comes last and says that all of it is there."""
    save_weights(built.model, run.weights_file, {'run': planned.name})
    state, data, config = built.trainer.state, built.data, planned.config
    mean, std = data.normalization
    predictions = kept_predictions(run, recorded_splits(config), int(state.timestamp.batch), say)
    files = ['run.yaml', 'weights.safetensors', 'metrics.jsonl', *map(predictions_file, predictions)]
    files += [ATTACKS_FILE] if (run.path / ATTACKS_FILE).is_file() else []
    manifest = {
        'schema': SCHEMA,
        'run': planned.name,
        'arm': planned.arm,
        'seed': config.seed,
        'finished_epoch': int(state.timestamp.epoch),
        'finished_at': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'data': {
            'fingerprint': data.fingerprint,
            'num_samples': len(data.train_set),
            'num_classes': data.num_classes,
            'classes': list(data.classes),
            'shape': list(data.shape),
            'normalization': {'mean': [float(m) for m in mean], 'std': [float(s) for s in std]},
        },
        'augmentation': data.augmentation.as_mapping(),
        'weights': {'hash': weights_hash(built.model)},
        'teachers': _teachers(built),
        'precision': config.precision,
        'files': file_records(run.path, files),
        'hardware': hardware(),
        'versions': versions(),
        'parameters': parameters(built.model),
        'multiply_adds': multiply_adds(built.model, data.shape),
        'inference': _inference(built, config.precision),
        'evaluation': evaluation(predictions, teacher_runs(built.algorithms), say),
    }
    if goes_on.weights not in (None, manifest['weights']['hash']):
        say(f'{run}: made again, it ends with other weights than before; what was learnt from those is of others')
    if not run.manifest_file.is_file():
        write_manifest(run.path, Manifest.model_validate(manifest))
        return
    archive, own = Archive(run), manifest['weights']['hash']
    # A training on another device may end in other weights: what was recorded of the former ones is of no use.
    archive.drop('logits', lambda view: archive.metadata('logits', view).get('weights') in (None, own))
    archive.update(lambda recorded: _with_archive(manifest, recorded))


def _teachers(built: Built) -> dict[str, str]:
    """The hash of each teacher's weights, by its name."""
    hashes = {}
    for algorithm in built.algorithms:
        for teacher in algorithm.teachers if isinstance(algorithm, HasTeachers) else ():
            if (found := teacher.weights_hash) is not None:
                hashes[teacher.name] = found
    return hashes


def _inference(built: Built, precision: str) -> dict[str, Any]:
    """How long the trained model takes, in the run's precision and layout, on the device that it was trained on."""
    state, shape = built.trainer.state, built.data.shape
    with get_precision_context(state.precision, state.precision_config):
        seconds = {str(batch): inference_seconds(built.model, shape, batch) for batch in (1, 256)}
    return {**seconds, 'device': state.device.name, 'threads': torch.get_num_threads(), 'precision': precision}


def _with_archive(manifest: dict[str, Any], recorded: Manifest) -> Manifest:
    """The manifest of a finished run with what its recorders have entered into the one before."""
    tables = {} if recorded.archive is None else {name: recorded.files[name] for name in recorded.archive.files}
    whole = Manifest.model_validate(manifest)
    return whole.model_copy(update={'archive': recorded.archive, 'files': {**whole.files, **tables}})


def hardware() -> dict[str, Any]:
    """What the run ran on, as far as a reader of its figures has to know."""
    facts: dict[str, Any] = {
        'cpu': _cpu_name(),
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'ranks': dist.get_world_size(),
    }
    if torch.cuda.is_available():
        facts['gpu'] = torch.cuda.get_device_name()
        facts['gpus'] = torch.cuda.device_count()
    return facts


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def versions() -> dict[str, str]:
    packages = ('composer_kd', 'mosaicml', 'mosaicml-streaming', 'torch', 'numpy')
    found = {'python': platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
