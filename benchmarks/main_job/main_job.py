"""The main job (yamls/kd.yaml) on several seeds: at which epoch and after how many seconds an accuracy is reached.

    python benchmarks/main_job/main_job.py --runs runs/three-seeds

trains what is not finished in that folder, and writes main_job.json and main_job.md beside this file from the run
directories alone. Leave the machine alone meanwhile: seconds are wall time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from composer_kd.archive import RunDir, atomic_write
from composer_kd.report import report

HERE = Path(__file__).parent
YAML = HERE.parents[1] / 'yamls' / 'kd.yaml'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=Path, default=Path('runs/three-seeds'))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', type=Path, default=HERE, help='where main_job.json and main_job.md go')
    options = parser.parse_args()
    changes = [f'repeat={options.seeds}', f'save_folder={options.runs}']
    command = [sys.executable, '-m', 'composer_kd.run', str(YAML), *changes, '--progress', 'lines']
    if status := subprocess.run(command, check=False).returncode:
        return status
    made = report([options.runs])
    runs = [RunDir(path) for path in sorted(options.runs.iterdir()) if (path / 'run.yaml').is_file()]
    manifest = runs[0].manifest()
    facts = {
        'what': f'yamls/kd.yaml, {options.seeds} seeds',
        'command': f'composer run yamls/kd.yaml repeat={options.seeds} save_folder={options.runs.as_posix()}',
        'hardware': manifest.hardware,
        'versions': manifest.versions,
        'date': str(runs[-1].manifest().model_extra['finished_at'])[:10],
    }
    curves = {run.path.name: [_short(line) for line in run.metrics()] for run in runs}
    result = {**facts, 'report': json.loads(made.json()), 'curves': curves}
    atomic_write(options.out / 'main_job.json', json.dumps(result, indent=1) + '\n')
    atomic_write(options.out / 'main_job.md', table(result) + '\n')
    print(f'written: {options.out / "main_job.json"} and main_job.md')
    return 0


def table(result: dict[str, Any]) -> str:
    """The three measures, arm by arm, and what the report says of them."""
    report, arms = result['report'], result['report']['arms']
    levels = [level['threshold'] for level in arms[0]['to_reach']['test']]
    head = ['arm', 'n', 'last epoch, %', 'best epoch, %', *(f'to {100 * level:.0f} %' for level in levels)]
    lines = [
        f'# The main job: {result["what"]}',
        '',
        f'`{result["command"]}`, {result["date"]}, {_hardware(result["hardware"])}, '
        f'torch {result["versions"]["torch"]}.',
        '',
        report['headline'],
        '',
        f'| {" | ".join(head)} |',
        '|---|' + '---:|' * (len(head) - 1),
    ]
    for arm in arms:
        test = arm['accuracy']['test']
        reached = [_reached(level) for level in arm['to_reach']['test']]
        row = [arm['name'], str(test['last']['n']), _spread(test['last'], 100), _spread(test['best'], 100), *reached]
        lines.append(f'| {" | ".join(row)} |')
    lines += ['', 'To an accuracy: epochs / training seconds, teachers inside, mean ± standard deviation over seeds.']
    return '\n'.join(lines)


def _reached(level: dict[str, Any]) -> str:
    if level['reached'] < level['of']:
        return f'{level["reached"]} of {level["of"]}'
    return f'{_spread(level["epochs"])} / {_spread(level["seconds"])}'


def _spread(value: dict[str, Any], factor: float = 1) -> str:
    return f'{factor * value["mean"]:.1f}' + (f' ± {factor * value["sd"]:.1f}' if value['sd'] is not None else '')


def _short(line: dict) -> dict:
    keys = (
        'epoch',
        'test_accuracy',
        'val_accuracy',
        'train_accuracy_running',
        'train_accuracy_clean',
        'seconds_train_total',
    )
    return {key: round(line[key], 4) for key in keys if line.get(key) is not None}


def _hardware(facts: dict) -> str:
    gpu = f', {facts["gpu"]}' if 'gpu' in facts else ''
    return f'{facts["cpu"]}, {facts["cores"]} cores{gpu}'


if __name__ == '__main__':
    raise SystemExit(main())
