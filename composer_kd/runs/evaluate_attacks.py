"""``composer-kd evaluate --attacks``: the accuracy of finished runs under attack, by their saved weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch
from composer.utils import get_device
from torch import Tensor, nn

from composer_kd.algorithms.adversarial_recycling.attack import Attack
from composer_kd.archive import RunDir
from composer_kd.archive.archive import manifest_update
from composer_kd.callbacks.evaluate_attacks import (
    ATTACKS_FILE,
    AttackCounts,
    Attacker,
    asked,
    chosen_rows,
    make_attack,
    under_attack,
    what_is_left,
)
from composer_kd.core.errors import UserError, nearest
from composer_kd.data.dataset import KeyedImages
from composer_kd.functional.attacks import normalised
from composer_kd.models import Classifier
from composer_kd.models.finished_run import FinishedRun
from composer_kd.report.render.text import PERCENT, Table
from composer_kd.runs.config import RunConfig
from composer_kd.runs.process import keep_freed_memory
from composer_kd.runs.record import open_run_data
from composer_kd.storage.atomic import atomic_write
from composer_kd.storage.distributed import on_rank_zero, raise_on_all_ranks
from composer_kd.storage.jsonl import append_line, read_lines
from composer_kd.storage.locks import lock_or_refuse
from composer_kd.teachers.from_run import RunTeacher
from composer_kd.teachers.record import Inference

__all__ = ['LIBRARIES', 'attack_configured', 'attack_run', 'show_attacks']

BATCH_SIZE = 250

Normalization = tuple[Sequence[float], Sequence[float]]


def show_attacks(
    paths: Sequence[str | Path],
    attack: Attack,
    library: str = 'own',
    split: str = 'test',
    *,
    subset: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
    file: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Attack the runs at ``paths``, say what is left of their accuracy, and write it to ``file`` where one is named."""
    found = [
        attack_run(path, attack, library, split, subset=subset, batch_size=batch_size, device=device) for path in paths
    ]
    if file is not None:
        document = {'format': 'composer_kd.attack', 'version': 1, 'runs': found}
        atomic_write(file, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + '\n')
    names = [Path(one['run']).name for one in found]
    rows = tuple(
        (
            name if names.count(name) == 1 else one['run'],
            f'{one["samples"]:,}',
            PERCENT.text(one['accuracy']),
            PERCENT.text(one['robust_accuracy']),
        )
        for name, one in zip(names, found, strict=True)
    )
    what = f'{attack.norm}, epsilon {attack.epsilon:g} of 255, by {found[0]["library"]}'
    say(Table(f'Under attack: {what}', ('run', f'{split} samples', 'accuracy, %', 'robust, %'), rows).text())


def attack_run(
    path: str | Path,
    attack: Attack,
    library: str = 'own',
    split: str = 'test',
    *,
    subset: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = 'auto',
) -> dict[str, Any]:
    """What is left of a finished run's accuracy, in float32, for programs.

    Args:
        path: The run directory.
        attack: What it is attacked with.
        library: ``'own'``, or another one that makes the adversarial examples: ``'foolbox'`` or ``'autoattack'``.
        split: ``'test'`` or ``'val'``.
        subset: How many samples, always the same ones; ``None`` takes all.
        batch_size: Images at a time.
        device: ``auto``, ``cpu`` or ``gpu``.
    """
    for name, value in (('subset', subset), ('batch_size', batch_size)):
        if value is not None and value < 1:
            raise UserError(f'{name}: a whole number from 1 on, got {value}')
    if library not in LIBRARIES:
        raise UserError(f'attacks: {library!r} is not known; {nearest(library, LIBRARIES)}')
    if device == 'gpu' and not torch.cuda.is_available():
        raise UserError('device: there is no GPU here; use cpu or auto')
    run = FinishedRun.open(path)
    data = open_run_data(run)
    spec = {'val': data.val, 'test': data.test}[split]
    if spec is None:
        raise UserError(f'{run}: it has no validation samples (data.val_fraction: 0); use --split test')
    if data.fingerprint != run.manifest.data.fingerprint:
        raise UserError(f'{run}: the data at hand is not what it was trained on; put that back')
    dataset: KeyedImages = spec.dataloader.dataset  # type: ignore[union-attr]
    chosen = get_device(None if device == 'auto' else device)
    if chosen.name == 'cpu':
        keep_freed_memory()
    module = chosen.module_to_device(RunTeacher(run).module).eval().requires_grad_(False)
    place = next(module.parameters()).device
    attacker = LIBRARIES[library](module, attack, dataset, place)
    counts = under_attack(module, dataset, chosen_rows(dataset, subset), attacker, place, batch_size)
    options = asdict(attack)
    del options['strongest']
    return {
        'run': str(run),
        'weights': run.weights_hash,
        'split': split,
        'library': library if library == 'own' else f'{library} {metadata.version(library)}',
        **(options if library != 'autoattack' else {'epsilon': attack.epsilon, 'norm': attack.norm}),
        **_accuracies(counts),
    }


def _accuracies(counts: AttackCounts) -> dict[str, Any]:
    return {'samples': counts.samples, 'accuracy': counts.accuracy, 'robust_accuracy': counts.robust_accuracy}


# -- who attacks ------------------------------------------------------------------------------------------------------


def _own(module: nn.Module, attack: Attack, dataset: KeyedImages, device: torch.device) -> Attacker:
    def attacker(images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        return attack.on(module, images, labels, ids, dataset.num_classes, dataset.normalization)

    return attacker


def _foolbox(module: nn.Module, attack: Attack, dataset: KeyedImages, device: torch.device) -> Attacker:
    try:
        import foolbox
    except ImportError:
        raise UserError('attacks: foolbox is not installed; pip install composer_kd[adversarial]') from None
    if attack.targeted:
        raise UserError('attacks: foolbox attacks here without targets; leave them out, or let our own code attack')
    mean, std = dataset.normalization
    scaled = {'mean': list(mean), 'std': list(std), 'axis': -3}
    model = foolbox.PyTorchModel(module, bounds=(0, 1), preprocessing=scaled, device=device)
    kind = foolbox.attacks.LinfPGD if attack.norm == 'linf' else foolbox.attacks.L2PGD
    theirs = kind(abs_stepsize=attack.step_size / 255, steps=attack.steps, random_start=True)

    def attacker(images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        # Its random start comes from torch's generator.
        with torch.random.fork_rng([device] if device.type == 'cuda' else []):
            torch.manual_seed(0)
            _, (adversarial,), _ = theirs(model, images / 255, labels, epsilons=[attack.epsilon / 255])
        return adversarial * 255

    return attacker


def _autoattack(module: nn.Module, attack: Attack, dataset: KeyedImages, device: torch.device) -> Attacker:
    try:
        from autoattack import AutoAttack  # type: ignore[import-not-found]
    except ImportError:
        raise UserError('attacks: autoattack is not installed; https://github.com/fra31/auto-attack says how') from None

    def forward(images: Tensor) -> Tensor:
        return module(normalised(images * 255, dataset.normalization))

    norm = {'linf': 'Linf', 'l2': 'L2'}[attack.norm]
    if dataset.num_classes < 4:
        raise UserError(
            f'attacks: the loss of autoattack compares the first four classes, and the data has {dataset.num_classes}; '
            f'let our own code attack, or foolbox'
        )
    theirs = AutoAttack(forward, norm=norm, eps=attack.epsilon / 255, version='standard', device=device, verbose=False)
    theirs.seed = 0
    # Its targeted attacks try nine other classes one after the other, whether there are so many or not.
    for targeted in (theirs.apgd_targeted, theirs.fab):
        targeted.n_target_classes = min(9, dataset.num_classes - 1)

    def attacker(images: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        return theirs.run_standard_evaluation(images / 255, labels, bs=len(images)) * 255

    return attacker


LIBRARIES: dict[str, Callable[[nn.Module, Attack, KeyedImages, torch.device], Attacker]] = {
    'own': _own,
    'foolbox': _foolbox,
    'autoattack': _autoattack,
}


def attack_configured(config: RunConfig, run: RunDir, say: Callable[[str], None]) -> None:
    """Attack a finished run's model where the end of its training was not measured as ``evaluate.attacks`` asks.

    A training that ran through measured itself; one that was killed while it did, or that was asked later, did not.
    All ranks call this together.
    """
    wanted = config.evaluate.attacks
    if wanted is None:
        return
    attacks = [make_attack(one.model_dump()) for one in wanted.pgd]
    _, at_the_end = asked(attacks, wanted.subset, wanted.interval_subset, wanted.interval_attacks)
    measurements = list(product(wanted.splits_of(config.data.val_fraction), at_the_end))
    lacking, listed = on_rank_zero(lambda: (_lacking(run, measurements), _is_listed(run)))
    if not lacking and listed:
        return
    if config.threads:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        on_rank_zero(lambda: stack.enter_context(lock_or_refuse(run.path / 'archive' / '.robustness.lock', str(run))))
        if not lacking:  # Killed before the manifest could name it.
            on_rank_zero(lambda: _append(run, None))
            return
        finished = on_rank_zero(lambda: FinishedRun.open(run))
        with raise_on_all_ranks():
            data = open_run_data(finished)
            if data.fingerprint != finished.manifest.data.fingerprint:
                raise UserError(f'{run}: the data at hand is not what it was trained on; put that back to attack it')
        state = _at_its_end(finished, config)
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
    lines = [line for line in read_lines(run.path / ATTACKS_FILE) if line.get('batch') == end]

    def is_there(split: str, attack: Attack, subset: int | None) -> bool:
        sought = {'split': split, 'subset': subset, **asdict(attack)}
        del sought['strongest']
        # Null is an answer as well: a line without the key says nothing of it.
        return any(all(name in line and line[name] == value for name, value in sought.items()) for line in lines)

    return [number for number, (split, what) in enumerate(measurements) if not is_there(split, *what)]


def _when(run: RunDir) -> dict[str, int]:
    return {'epoch': int(run.manifest().finished_epoch or 0), 'batch': int(run.metrics()[-1]['batch'])}


def _is_listed(run: RunDir) -> bool:
    return ATTACKS_FILE in run.manifest().files


def _at_its_end(run: FinishedRun, config: RunConfig) -> Inference:
    """What stands for the Trainer's state: the saved weights, in the precision and layout of the training."""
    classes = run.manifest.data.num_classes
    inference = Inference.like(run.config, config.device, classes)
    if inference.device.name == 'cpu':
        keep_freed_memory()
    like: Classifier = inference.model  # type: ignore[assignment]
    student = Classifier(RunTeacher(run).module, classes, like.cpu_autocast, like.channels_last)
    return replace(inference, model=inference.device.module_to_device(student))


def _append(run: RunDir, line: dict[str, object] | None) -> None:
    with manifest_update(run, ATTACKS_FILE):
        if line is not None:
            append_line(run.path / ATTACKS_FILE, line)
