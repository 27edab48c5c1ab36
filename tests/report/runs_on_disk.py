"""Run directories with made-up but plausible contents, written as a training would write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from composer_kd.report import Report

STUDENT, TEACHER = 5.0e11, 1.7e11  # multiply-adds an epoch


def write_run(
    folder: Path,
    records: list[dict[str, Any]],
    *,
    arm: str = 'scratch',
    seed: int = 0,
    planned: int | None = None,
    algorithms: dict | None = None,
    manifest: bool = True,
    **config: Any,
) -> Path:
    """One run directory; ``records`` without ``epoch`` are numbered."""
    folder.mkdir(parents=True)
    records = [{'epoch': index, **record} for index, record in enumerate(records, start=1)]
    settings = {
        'name': folder.name,
        'arm': arm,
        'seed': seed,
        'lineage': 'kd',
        'max_duration': f'{len(records) if planned is None else planned}ep',
        'model': {'name': 'resnet20'},
        'data': {'source': 'synthetic100', 'val_fraction': 0.1},
        'optimizer': {'name': 'sgd', 'lr': 0.1, 'momentum': 0.9},
        'algorithms': algorithms or {},
        **config,
    }
    (folder / 'run.yaml').write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding='utf-8')
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    (folder / 'metrics.jsonl').write_text(lines, encoding='utf-8')
    if manifest:
        (folder / 'archive').mkdir()
        content = {
            'hardware': {'processor': 'an eight-core processor', 'cores': 8, 'accelerator': None},
            'versions': {'python': '3.11', 'torch': '2.7.0', 'composer': '0.32.1'},
            'parameters': 275_572,
            'multiply_adds': 41_000_000,
            'finished_epoch': len(records),
            'weights': {'hash': 'f00d'},
        }
        (folder / 'archive' / 'manifest.json').write_text(json.dumps(content), encoding='utf-8')
    return folder


def record(
    run: Path,
    *,
    losses: int = 0,
    views: int = 0,
    source: str = 'model',
    top_k: int | None = None,
    megabytes: float = 2.0,
    seconds: float | None = 3.0,
    multiply_adds: float | None = 10e9,
) -> None:
    """Enter tables into a run's manifest: ``losses`` of 0.5 MB, and further ``views`` that cost what is said."""
    file = run / 'archive' / 'manifest.json'
    manifest = json.loads(file.read_text(encoding='utf-8'))
    files = manifest.setdefault('files', {})
    archive = manifest.setdefault('archive', {'samples': 'archive/samples.safetensors', 'loss': {}, 'logits': {}})
    files[archive['samples']] = {'bytes': 250_000, 'xxh3': '0' * 32}
    for epoch in range(losses):
        name = f'archive/loss/ep{epoch:04d}.safetensors'
        files[name] = {'bytes': 500_000, 'xxh3': '0' * 32}
        archive['loss'][str(epoch)] = {'file': name, 'seen': 1000}
    for view in range(len(archive['logits']), len(archive['logits']) + views):
        name = f'archive/logits/view{view:04d}.safetensors'
        files[name] = {'bytes': int(megabytes * 1e6), 'xxh3': '0' * 32}
        costs = {'seconds': seconds, 'multiply_adds': multiply_adds}
        archive['logits'][str(view)] = {'file': name, 'seen': 1000, 'source': source, 'top_k': top_k, **costs}
    file.write_text(json.dumps(manifest), encoding='utf-8')


def accuracies(values: list[float | None], **extra: Any) -> list[dict[str, Any]]:
    return [{'test_accuracy': value, **extra} for value in values]


def training(epochs: int, rate: float, top: float, seed: int, distilled: bool, every: int = 1) -> list[dict[str, Any]]:
    """A saturating training of ``epochs`` epochs; ``every``-th ones have teachers."""
    records = []
    seconds = teacher_seconds = student_adds = teacher_adds = eval_seconds = 0.0
    for epoch in range(1, epochs + 1):
        noise = 0.008 * math.sin(12.9898 * epoch + 78.233 * (seed + 1))
        progress = 1 - math.exp(-rate * epoch)
        test = max(0.01, top * progress + noise + 0.004 * math.cos(seed))
        taught = distilled and (epoch - 1) % every == 0
        teacher_here = 1.1 if taught else 0.0
        seconds += 5.2 + 0.1 * math.sin(epoch + seed) + teacher_here
        teacher_seconds += teacher_here
        eval_seconds += 1.3
        student_adds += STUDENT
        teacher_adds += TEACHER if taught else 0.0
        label = 4.6 * math.exp(-rate * epoch) + 1.2 - noise
        records.append(
            {
                'epoch': epoch,
                'batch': epoch * 64,
                'samples': 8192,
                'train_accuracy_running': max(0.01, 0.92 * top * progress + noise / 2),
                'train_accuracy_clean': min(1.0, max(0.01, 1.25 * top * progress + noise / 2)),
                'val_accuracy': max(0.01, test - 0.006),
                'test_accuracy': test,
                'test_top5': min(1.0, test + 0.25),
                'test_cross_entropy': label + 0.3,
                'loss_label': label,
                'loss_distill': 0.8 * label if taught else None,
                'loss_total': 1.8 * label if taught else label,
                'agreement': 0.45 + 0.3 * progress if taught else None,
                'teacher_accuracy': 0.46 if taught else None,
                'kd_weight': 1.0 if taught else 0.0,
                'learning_rate': 0.1 * 0.97**epoch,
                'seconds_train_total': seconds,
                'seconds_teacher_total': teacher_seconds,
                'seconds_eval_total': eval_seconds,
                'multiply_adds_student_total': student_adds,
                'multiply_adds_teacher_total': teacher_adds,
                'images_per_second': 8192 / (5.2 + teacher_here),
                'runs_beside': 1,
                'world_size': 1,
                'device': 'cpu',
            }
        )
    return records


KD = {'teacher_mixup_kd': {'teachers': ['gen0'], 'schedule': 'always', 'mix': 'uniform'}}


def lineage(folder: Path, epochs: int = 24, seeds: int = 3) -> Path:
    """A study of three arms: from scratch, always taught, taught every fourth epoch."""
    for seed in range(seeds):
        write_run(folder / f'scratch-s{seed}', training(epochs, 0.09, 0.50, seed, False), arm='scratch', seed=seed)
        write_run(
            folder / f'kd_all-s{seed}',
            training(epochs, 0.135, 0.52, seed, True),
            arm='kd_all',
            seed=seed,
            algorithms=KD,
        )
        sparse = {'teacher_mixup_kd': {'teachers': ['gen0'], 'schedule': 'every 4ep', 'mix': 'uniform'}}
        write_run(
            folder / f'kd_every4-s{seed}',
            training(epochs, 0.105, 0.51, seed, True, every=4),
            arm='kd_every4',
            seed=seed,
            algorithms=sparse,
        )
    return folder


def recorded_lineage(folder: Path, epochs: int = 24, seeds: int = 3) -> Path:
    """The same, and an arm that is taught from what was recorded of the scratch run of its seed."""
    lineage(folder, epochs, seeds)
    for seed in range(seeds):
        teacher = folder / f'scratch-s{seed}'
        record(teacher, losses=epochs, views=4, seconds=1.1, multiply_adds=TEACHER)
        rows = training(epochs, 0.13, 0.52, seed, False)
        for row in rows:
            row['images_recorded_total'] = row['epoch'] * row['samples']
            row['multiply_adds_teacher_saved_total'] = row['epoch'] * TEACHER
        algorithms = {'teacher_mixup_kd': {'teachers': [{'recorded': str(teacher)}], 'schedule': 'always'}}
        write_run(folder / f'recorded-s{seed}', rows, arm='recorded', seed=seed, algorithms=algorithms)
    return folder


def rows(made: Report, section: str, beginning: str = '') -> list[dict[str, str]]:
    """The rows of a section's tables, or of that whose title begins so, as columns to cells."""
    tables = [table for table in made.shown.get(section, []) if table.title.startswith(beginning)]
    return [dict(zip(table.columns, row, strict=True)) for table in tables for row in table.rows]


def values(made: Report, section: str) -> Any:
    """What ``report.json`` holds of a section; ``None`` where it holds nothing."""
    return json.loads(made.json())['sections'].get(section)
