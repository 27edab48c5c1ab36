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
    atomic_write(
        options.out / 'main_job.json',
        json.dumps({**facts, 'report': json.loads(made.json()), 'curves': curves}, indent=1),
    )
    lines = [
        f'# {facts["what"]}',
        f'`{facts["command"]}`, {facts["date"]}, {_hardware(manifest.hardware)}, torch {manifest.versions["torch"]}.',
        made.markdown().partition('\n')[2].strip(),
    ]
    atomic_write(options.out / 'main_job.md', '\n\n'.join(lines) + '\n')
    print(f'written: {options.out / "main_job.json"} and main_job.md')
    return 0


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
