"""The files of one command, yamls/*.yaml: what each trains on the data that is drawn, and how long that takes.

    python benchmarks/one_command/one_command.py

runs each file in a process of its own, as `composer run yamls/FILE` does, into a new folder, and writes
one_command.json and one_command.md beside this file. Leave the machine alone meanwhile: seconds are wall time, from
the start of the process to its end; data that was drawn before is not drawn again. Accuracies are of one seed
on 500 or 1,000 test images: they say that a file works, and do not compare methods.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from composer_kd.archive import RunDir, atomic_write
from composer_kd.runs.plan import make_plan
from composer_kd.runs.yaml_file import read_yaml

HERE = Path(__file__).parent
YAMLS = HERE.parents[1] / 'yamls'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('words', nargs='*', metavar='FILE | key=value', help='names in yamls/ (default: all), changes')
    parser.add_argument('--out', type=Path, default=HERE, help='where one_command.json and one_command.md go')
    options = parser.parse_args()
    changes = [word for word in options.words if '=' in word]
    names = [word for word in options.words if '=' not in word] or sorted(file.name for file in YAMLS.glob('*.yaml'))
    if unknown := [name for name in names if not (YAMLS / name).is_file()]:
        parser.error(f'{unknown[0]}: there is no such file in yamls/')
    out = options.out / 'one_command.json'
    before = json.loads(out.read_text())['files'] if out.is_file() else {}
    result: dict[str, Any] = {'command': 'python benchmarks/one_command/one_command.py', 'files': before}
    for name in names:
        print(f'{name} ...', flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measured, facts = measure(name, Path(folder), changes)
        result = {**result, **facts, 'files': dict(sorted({**result['files'], name: measured}.items()))}
        # After each: what has been measured stays, whatever becomes of the rest.
        atomic_write(out, json.dumps(result, indent=1) + '\n')
        atomic_write(out.with_suffix('.md'), table(result) + '\n')
    print(table(result))
    return 0


def measure(name: str, folder: Path, changes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wall seconds of the whole command, and what its runs took and reached; the facts of the machine beside them."""
    words = [str(YAMLS / name), f'save_folder={folder}', *changes]
    begin = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'composer_kd.run', *words], check=True)
    seconds = time.perf_counter() - begin
    runs = {}
    for run in make_plan(read_yaml(YAMLS / name), name).runs:
        done = RunDir(folder / run.name)
        last = done.metrics()[-1]
        runs[run.name] = {
            'seconds': round(last['seconds_train_total'], 1),
            'test': round(100 * last['test_accuracy'], 1),
        }
        manifest = done.manifest()
        facts = {
            'hardware': manifest.hardware,
            'versions': manifest.versions,
            'date': str((manifest.model_extra or {})['finished_at'])[:10],
        }
    return {'seconds': round(seconds, 1), 'runs': runs, 'date': facts['date']}, facts


def table(result: dict[str, Any]) -> str:
    hardware = result['hardware']
    lines = [
        '# The files of one command',
        '',
        f'`{result["command"]}`, {result["date"]}, {hardware.get("gpu", hardware["cpu"])}, {hardware["cores"]} cores, '
        f'torch {result["versions"]["torch"]}. Seconds of the whole command, once each, and of the trainings in it;',
        'accuracies of one seed, on images that are drawn: they show that a file works, and compare no methods.',
        '',
        '| file | runs | seconds | of them training | test accuracies, % |',
        '|---|---:|---:|---:|---|',
    ]
    for name, file in result['files'].items():
        accuracies = ', '.join(f'{run} {one["test"]:.0f}' for run, one in file['runs'].items())
        training = sum(one['seconds'] for one in file['runs'].values())
        lines.append(
            f'| `yamls/{name}` | {len(file["runs"])} | {file["seconds"]:.0f} | {training:.0f} | {accuracies} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    raise SystemExit(main())
