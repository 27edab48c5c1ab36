"""How long an epoch takes: as it is and compiled, with and without evaluation, alone and side by side.

    python -m benchmarks.h200.epoch [--minutes 8.5] [--epochs 6]

Every measurement is some processes that train the same run at the same time. Of each, the first epoch warms up (and
compiles); epoch by epoch its training seconds and evaluation seconds are the run's own measures. Written to epoch.json
and epoch.md after each measurement; the same command goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.h200.runs import TOY, results_file, run_values, train, write
from composer_kd.archive import atomic_write

VARIANTS: dict[str, dict[str, Any]] = {
    'eager': {},
    'compiled': {'compile': True},
    'compiled, CUDA graphs': {'compile': {'mode': 'reduce-overhead'}},
    'compiled, tuned': {'compile': {'mode': 'max-autotune-no-cudagraphs'}},
}
# The main question first: what is cut off by the clock is the least needed.
PLAN = [
    *((name, 1) for name in ('eager', 'compiled', 'compiled, CUDA graphs')),
    *(('compiled', beside) for beside in (4, 8, 2)),
    *(('eager', beside) for beside in (8, 4)),
    *(('compiled, CUDA graphs', beside) for beside in (4, 8)),
    ('compiled, tuned', 1),
    ('compiled', 12),
]
TOY_PLAN = [('eager', 1), ('eager', 2)]
OUT_OF_TIME = 'took longer than there was time'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=8.5, help='begin no measurement that would end later')
    parser.add_argument('--epochs', type=int, default=2 if TOY else 6)
    parser.add_argument('--one', metavar='VARIANT', help='train once and print what its epochs took')
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.epochs)))
        return 0
    deadline = time.monotonic() + 60 * options.minutes
    before = results_file('epoch.json')
    rows: list[dict[str, Any]] = json.loads(before.read_text())['rows'] if before.is_file() else []
    rows = [row for row in rows if row.get('error') != OUT_OF_TIME]  # What a phase's end cut off is tried again.
    longest = 0.0
    for variant, beside in TOY_PLAN if TOY else PLAN:
        if any((row['variant'], row['beside']) == (variant, beside) for row in rows):
            continue
        begun = time.monotonic()
        if begun + longest > deadline:
            print('the time is over; the same command goes on')
            break
        rows.append(measure(variant, beside, options.epochs, deadline - begun))
        longest = max(longest, time.monotonic() - begun)
        write('epoch.json', 'an epoch of the study: ResNet-56, CIFAR-100, batch 128, bf16', rows=rows)
        atomic_write(results_file('epoch.md'), table(json.loads(results_file('epoch.json').read_text())) + '\n')
        print(json.dumps(rows[-1]), flush=True)
    return 0


def one(variant: str, epochs: int) -> dict[str, Any]:
    """Train, and tell what each epoch took."""
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as folder:
        values = run_values(Path(folder), **VARIANTS[variant], max_duration=f'{epochs}ep', predictions=False)
        (run,) = train(values)
        lines = run.metrics()
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    epochs_seconds = [[line['seconds_train'], line['seconds_eval']] for line in lines]
    return {'seconds': epochs_seconds, 'images': lines[-1]['samples'], 'peak_bytes': peak}


def measure(variant: str, beside: int, epochs: int, seconds: float) -> dict[str, Any]:
    """The same run in several processes at once; medians over their epochs, the first left out."""
    row: dict[str, Any] = {'variant': variant, 'beside': beside}
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // beside))
    environment = {**os.environ, 'OMP_NUM_THREADS': threads, 'TORCHINDUCTOR_COMPILE_THREADS': threads}
    command = [sys.executable, '-m', 'benchmarks.h200.epoch', '--one', variant, '--epochs', str(epochs)]
    with tempfile.TemporaryFile('w+') as errors:
        processes = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
            for _ in range(beside)
        ]
        try:
            deadline = time.monotonic() + max(seconds, 30.0)
            told = [process.communicate(timeout=max(1.0, deadline - time.monotonic()))[0] for process in processes]
        except subprocess.TimeoutExpired:
            return {**row, 'error': OUT_OF_TIME}
        finally:
            for process in processes:
                process.kill()
        if any(process.returncode for process in processes):
            errors.seek(0)
            lines = errors.read().strip().splitlines()
            return {**row, 'error': lines[-1][:300] if lines else 'failed'}
    runs = [json.loads(text.strip().splitlines()[-1]) for text in told]
    steady = [epoch for run in runs for epoch in run['seconds'][1:]]
    whole = statistics.median(train + evaluate for train, evaluate in steady)
    return {
        **row,
        'train_seconds': round(statistics.median(train for train, _ in steady), 3),
        'eval_seconds': round(statistics.median(evaluate for _, evaluate in steady), 3),
        'fastest_train_seconds': round(min(train for train, _ in steady), 3),
        'first_epoch_seconds': round(statistics.median(sum(run['seconds'][0]) for run in runs), 1),
        'epochs': len(steady),
        'images_per_second': round(beside * runs[0]['images'] / whole),
        'peak_gigabytes': round(max(run['peak_bytes'] for run in runs) / 1e9, 2),
    }


def table(result: dict[str, Any]) -> str:
    facts = result['hardware']
    lines = [
        f'# {result["what"][0].upper()}{result["what"][1:]}',
        '',
        f'{facts.get("gpu", facts["cpu"])}, {facts["cores"]} cores, torch {result["versions"]["torch"]}, '
        f'{result["date"]}. Median seconds of an epoch; images a second are those of all runs together, evaluation '
        'inside.',
        '',
        '| | runs side by side | training | evaluation | first epoch | images/s, all runs | GB a run |',
        '|---|---:|---:|---:|---:|---:|---:|',
    ]
    for row in result['rows']:
        if 'error' in row:
            lines.append(f'| {row["variant"]} | {row["beside"]} | {row["error"].replace("|", "/")} | | | | |')
            continue
        figures = (
            f'{row["train_seconds"]:.2f}',
            f'{row["eval_seconds"]:.2f}',
            f'{row["first_epoch_seconds"]:.1f}',
            f'{row["images_per_second"]:,}',
            f'{row["peak_gigabytes"]:.2f}',
        )
        lines.append(f'| {row["variant"]} | {row["beside"]} | {" | ".join(figures)} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
