"""A tiny lineage that trains in seconds, and the command as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]

TINY = {
    'name': 'tiny',
    'seed': 3,
    'data': {'source': 'synthetic100', 'synthetic': {'train_size': 600, 'test_size': 200}, 'val_fraction': 0.1},
    'model': {'name': 'mlp', 'hidden': [32]},
    'optimizer': {'name': 'SGD', 'lr': 0.05, 'momentum': 0.9},
    'scheduler': 'cosine',
    'batch_size': 64,
    'max_duration': '3ep',
    'lineage': {
        'gen0': None,
        'gen1': {'algorithms': {'TeacherMixupKD': {'teachers': ['gen0']}}},
    },
}


def write_yaml(folder: Path, **changes: object) -> Path:
    """The tiny lineage, its runs in ``folder/runs``, with top-level keys replaced."""
    path = folder / 'tiny.yaml'
    path.write_text(yaml.safe_dump({**TINY, 'save_folder': str(folder / 'runs'), **changes}, sort_keys=False))
    return path


def run(
    *arguments: object, launcher: tuple[str, ...] = (), timeout: float = 200, **options
) -> subprocess.CompletedProcess:
    """``composer_kd.run`` in a process of its own, or under Composer's launcher with arguments of that."""
    return subprocess.run(
        command(*arguments, launcher=launcher),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def command(*arguments: object, launcher: tuple[str, ...] = ()) -> list[str]:
    words = [str(argument) for argument in arguments]
    if launcher:
        return [sys.executable, '-m', 'composer.cli.launcher', *launcher, '-m', 'composer_kd.run', *words]
    return [sys.executable, '-m', 'composer_kd.run', *words]


def environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
