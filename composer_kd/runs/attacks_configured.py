"""``robustness:`` of a finished run: what it asks for and the run's file lacks is measured by the saved weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import product

import torch

from composer_kd.algorithms.adversarial_recycling.attack import Attack
from composer_kd.archive import RunDir
from composer_kd.archive.jsonl import append_line, read_lines
from composer_kd.archive.lock import locked
from composer_kd.archive.ranks import on_rank_zero, together
from composer_kd.archive.unlisted import unlisted
from composer_kd.callbacks.robustness import ROBUSTNESS_FILE, asked, make_attack, what_is_left
from composer_kd.callbacks.under_attack import chosen_rows
from composer_kd.data.dataset import KeyedImages
from composer_kd.errors import UserError
from composer_kd.models import Classifier
from composer_kd.report.wording import PERCENT
from composer_kd.runs.config import RunConfig
from composer_kd.runs.harvest import open_run_data
from composer_kd.runs.memory import keep_freed_memory
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.harvest import Inference

__all__ = ['attack_configured']


def attack_configured(config: RunConfig, run: RunDir, say: Callable[[str], None]) -> None:
    """Attack a finished run's model where the end of its training was not measured as ``robustness:`` asks.

    A training that ran through measured itself; one that was killed while it did, or that was asked later, did not.
    All ranks call this together.
    """
    wanted = config.robustness
    if wanted is None:
        return
    attacks = [make_attack(one.model_dump()) for one in wanted.attacks]
    _, at_the_end = asked(attacks, wanted.subset, wanted.interval_subset, wanted.interval_attacks)
    measurements = list(product(wanted.splits_of(config.data.val_fraction), at_the_end))
    lacking, listed = on_rank_zero(lambda: (_lacking(run, measurements), _is_listed(run)))
    if not lacking and listed:
        return
    if config.threads:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(locked(run.path / 'archive' / '.robustness.lock', str(run))))
        if not lacking:  # Killed before the manifest could name it.
            on_rank_zero(lambda: _append(run, None))
            return
        with together():
            data = open_run_data(run)
            if data.fingerprint != run.manifest().data.fingerprint:
                raise UserError(f'{run}: the data at hand is not what it was trained on; put that back to attack it')
        state = _at_its_end(run, config, data.num_classes)
        for number in lacking:
            split, (attack, subset) = measurements[number]
            spec = data.val if split == 'val' else data.test
            assert spec is not None
            dataset: KeyedImages = spec.dataloader.dataset  # type: ignore[union-attr]
            found = what_is_left(state, dataset, chosen_rows(dataset, subset), attack, wanted.batch_size)
            line = {**on_rank_zero(lambda: _when(run)), 'split': split, 'subset': subset, **found}
            on_rank_zero(partial(_append, run, line))
            say(
                f'{run}: {split} accuracy {PERCENT.text(line["accuracy"])} %, under attack '
                f'({attack.norm}, epsilon {attack.epsilon:g}) {PERCENT.text(line["robust_accuracy"])} %'
            )


def _lacking(run: RunDir, measurements: list[tuple[str, tuple[Attack, int | None]]]) -> list[int]:
    """The numbers of those (a split, an attack, a number of samples) that no line at the training's end is of."""
    end = _when(run)['batch']
    lines = [line for line in read_lines(run.path / ROBUSTNESS_FILE) if line.get('batch') == end]

    def is_there(split: str, attack: Attack, subset: int | None) -> bool:
        sought = {'split': split, 'subset': subset, **asdict(attack)}
        del sought['strongest']
        # Null is an answer as well: a line without the key says nothing of it.
        return any(all(name in line and line[name] == value for name, value in sought.items()) for line in lines)

    return [number for number, (split, what) in enumerate(measurements) if not is_there(split, *what)]


def _when(run: RunDir) -> dict[str, int]:
    return {'epoch': int(run.manifest().finished_epoch or 0), 'batch': int(run.metrics()[-1]['batch'])}


def _is_listed(run: RunDir) -> bool:
    return ROBUSTNESS_FILE in run.manifest().files


def _at_its_end(run: RunDir, config: RunConfig, classes: int) -> Inference:
    """What stands for the Trainer's state: the saved weights, in the precision and layout of the training."""
    inference = Inference.like(run.read_config(), config.device, classes)
    if inference.device.name == 'cpu':
        keep_freed_memory()
    like: Classifier = inference.model  # type: ignore[assignment]
    student = Classifier(RunTeacher(run).module, classes, like.cpu_autocast, like.channels_last)
    return replace(inference, model=inference.device.module_to_device(student))


def _append(run: RunDir, line: dict[str, object] | None) -> None:
    with unlisted(run, ROBUSTNESS_FILE):
        if line is not None:
            append_line(run.path / ROBUSTNESS_FILE, line)
