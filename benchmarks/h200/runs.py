"""What the phases of ../h200.sh share: the runs that they make, where results go, and what they ran on."""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from composer_kd.archive import RunDir, atomic_write
from composer_kd.runs.execute import execute, hardware, versions
from composer_kd.runs.plan import make_plan, merge
from composer_kd.runs.progress import RunProgress

__all__ = ['TOY', 'results_file', 'run_values', 'train', 'write']

# Everything at toy size on the CPU, with results elsewhere: whether the scripts work, and nothing else.
TOY = bool(os.environ.get('TOY'))
HERE = Path(__file__).parent


def run_values(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run as the study trains them, a ResNet-56 on all of CIFAR-100; at toy size, a small net on drawn images."""
    values: dict[str, Any] = {
        'save_folder': str(folder),
        'data': {'source': 'data/cifar100', 'mode': 'device'},
        'model': {'name': 'resnet56'},
        'precision': 'bf16',
        'device': 'gpu',
        'save_interval': '1000ep',
    }
    if TOY:
        drawn = {'train_size': 400, 'test_size': 100}
        values['data'] = {'synthetic': drawn, 'mode': 'device', 'clean_subset': 100, 'val_fraction': 0.25}
        values |= {'model': {'name': 'mlp', 'hidden': [16]}, 'device': 'cpu', 'batch_size': 64}
    return merge(values, changes)


def train(values: dict[str, Any]) -> list[RunDir]:
    """Train what a YAML with these values would; its run directories."""
    plan = make_plan(values)
    execute(plan, RunProgress(False, stream=sys.stderr))
    return [RunDir(run.folder) for run in plan.runs]


def results_file(name: str) -> Path:
    return Path(os.environ.get('RESULTS', HERE)) / name


def write(name: str, what: str, **results: Any) -> None:
    """Put results beside this file, with the hardware that they are from."""
    what += ' (at toy size on a CPU: says nothing)' if TOY else ''
    page = {'what': what, 'date': date.today().isoformat(), 'hardware': hardware(), 'versions': versions(), **results}
    if torch.cuda.is_available():
        page['gpu_memory_gb'] = round(torch.cuda.get_device_properties(0).total_memory / 1e9)
    atomic_write(results_file(name), json.dumps(page, indent=1) + '\n')
