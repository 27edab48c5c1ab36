"""Kill every kind of command at random moments, repeat it, and compare what it leaves with an undisturbed one.

    python benchmarks/kills/kills.py
    python benchmarks/kills/kills.py --kinds training checkpoint --kills 50 --seed 1

Each trial forks this process, so that a kill (SIGKILL) meets the work and not Python's start, and kills it at a random
moment of the time that the undisturbed command took. The repeated command must end with status 0, leave the same
results as the undisturbed one, pass `verify`, and leave no temporary file. Written to kills.json and kills.md beside
this file; the exit status is 1 where a trial failed. Ten kinds by ten kills take about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
import torch
import xxhash
import yaml

from composer_kd.archive import Archive, RunDir, atomic_write, verify
from composer_kd.cli import main as composer_kd
from composer_kd.data.loaders import open_data
from composer_kd.data.section import DataSection
from composer_kd.runs.execute import hardware, versions

CLASSES, SIDE = 10, 16
RUN: dict[str, Any] = {
    'name': 'solo',
    'seed': 3,
    'data': {'source': 'shards', 'val_fraction': 0.1, 'cache_dir': 'cache'},
    'model': {'name': 'mlp', 'hidden': [64]},
    'optimizer': {'name': 'SGD', 'lr': 0.005, 'momentum': 0.9},
    'batch_size': 64,
    'max_duration': '4ep',
    'device': 'cpu',
    'save_folder': 'runs',
    'archive': {'losses': True, 'logits': {'views': 2, 'from': 'training'}},
}
TAUGHT = {
    **{key: value for key, value in RUN.items() if key != 'archive'},
    'name': 'line',
    'max_duration': '3ep',
    'lineage': {
        'gen0': {'archive': {'losses': True, 'logits': {'views': 2}}},
        'gen1': {'data': {'views': 2}, 'algorithms': {'TeacherMixupKD': {'teachers': [{'recorded': 'gen0'}]}}},
        'gen2': {'curriculum': {'from': 'gen0'}, 'algorithms': {'TeacherMixupKD': {'teachers': ['gen1']}}},
    },
}


@dataclass(frozen=True)
class KillKind:
    """A kind of work.

    Attributes:
        work: Does it, in a folder that :func:`prepare` has filled; the exit status.
        left: What it leaves, to be compared: content without times.
        needs: What of the common folder it starts from.
    """

    work: Callable[[], int | None]
    left: Callable[[], Any]
    needs: tuple[str, ...] = ('shards', 'cache', 'solo.yaml', 'line.yaml')


def tables(run: str) -> dict[str, str]:
    """The content of a run's tables, in the order of the samples' ids."""
    archive, found = Archive(Path('runs') / run), {}
    if archive.exists:
        ids = archive.samples().ids.argsort(kind='stable')
        for kind, numbers in (('loss', archive.epochs), ('logits', archive.views)):
            for number in numbers:
                table = archive.table(kind, number)
                rows = torch.from_numpy(ids[ids < len(table)])
                digest = xxhash.xxh3_128()
                for name in sorted(table.columns):
                    digest.update(table[name].index_select(0, rows).contiguous().numpy().tobytes())
                found[f'{kind} {number}'] = digest.hexdigest()
    return found


def runs(*names: str) -> Callable[[], Any]:
    """Weights, accuracies and tables of runs, which must pass `verify`."""

    def left() -> Any:
        found = {}
        for name in names:
            run = RunDir(Path('runs') / name)
            weights = verify(run.path).weights
            accuracies = [[line['epoch'], line['test_accuracy'], line['loss_total']] for line in run.metrics()]
            found[name] = [None if weights is None else weights.hash, accuracies, tables(name)]
        return found

    return left


def files(folder: str) -> Callable[[], dict[str, str]]:
    """Names and hashes of all files below a folder."""

    def left() -> dict[str, str]:
        paths = sorted(path for path in Path(folder).rglob('*') if path.is_file() and not path.name.endswith('.lock'))
        return {str(path): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in paths}

    return left


def numbers(file: str) -> Callable[[], Any]:
    """What a JSON file says, but for times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(inner) for key, inner in value.items() if 'second' not in key and 'date' not in key}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    return lambda: timeless(json.loads(Path(file).read_text()))


def cli(*words: str) -> Callable[[], int]:
    return lambda: composer_kd(list(words))


def cache() -> int:
    open_data(DataSection(source='shards', cache_dir='cache'), batch_size=64, seed=0, device=torch.device('cpu'))
    return 0


TRAINED = ('shards', 'cache', 'solo.yaml', 'line.yaml', 'runs')
KINDS = {
    'convert': KillKind(cli('convert', 'images.npz', 'shards'), files('shards'), ('images.npz',)),
    'cache': KillKind(cache, files('cache'), ('shards',)),
    'training': KillKind(cli('run', 'solo.yaml', '--no-report', 'save_interval=2ep'), runs('solo')),
    'checkpoint': KillKind(cli('run', 'solo.yaml', '--no-report', 'save_interval=1ba', 'archive=null'), runs('solo')),
    'lineage': KillKind(cli('run', 'line.yaml'), runs('gen0', 'gen1', 'gen2')),
    'harvest': KillKind(cli('record', 'runs/gen1', '--views', '6', '--batch-size', '100'), runs('gen1'), TRAINED),
    'report': KillKind(cli('report', 'runs', '--out', 'out'), numbers('out/report.json'), TRAINED),
    'ensemble': KillKind(
        cli('ensemble', 'runs/gen0', 'runs/gen1', 'runs/gen2', '--split', 'train', '--json', 'out.json'),
        numbers('out.json'),
        TRAINED,
    ),
    'attack': KillKind(
        cli('evaluate', 'runs/gen0', 'runs/gen1', '--attacks', '--subset', '200', '--json', 'out.json'),
        numbers('out.json'),
        TRAINED,
    ),
    'drift': KillKind(
        cli('evaluate', 'runs/gen1', '--drifts', 'fog,contrast,gaussian_noise', '--severities', '1,3'),
        numbers('runs/gen1/drifts.json'),
        TRAINED,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS))
    parser.add_argument('--kills', type=int, default=10, help='of each kind')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = options.out.resolve()
    results = {}
    with tempfile.TemporaryDirectory(prefix='kills-') as folder:
        common = Path(folder) / 'common'
        prepare(common)
        for name in options.kinds:
            results[name] = trials(KINDS[name], common, Path(folder) / name, options.kills, f'{options.seed} {name}')
            print(f'{name}: {row(results[name])}', flush=True)
    record = {
        'date': str(date.today()),
        'command': f'python benchmarks/kills/kills.py --kills {options.kills} --seed {options.seed}',
        'hardware': hardware(),
        'versions': versions(),
        'kinds': results,
    }
    atomic_write(out / 'kills.json', json.dumps(record, indent=1) + '\n')
    atomic_write(out / 'kills.md', page(record))
    return int(any(result['faults'] for result in results.values()))


def prepare(common: Path) -> None:
    """Images, shards, a cache, YAMLs and a trained lineage."""
    common.mkdir(parents=True)
    draw = np.random.default_rng(0)
    labels = np.arange(1500) % CLASSES
    # A class is a colour, so that something can be learnt.
    images = draw.integers(0, 128, (1500, SIDE, SIDE, 3)) + (labels[:, None, None, None] * np.array([12, 5, 9]))
    np.savez(
        common / 'images.npz',
        images=images.astype(np.uint8),
        labels=labels,
        split=(np.arange(1500) >= 1200).astype(np.int64),
    )
    (common / 'solo.yaml').write_text(yaml.safe_dump(RUN, sort_keys=False))
    (common / 'line.yaml').write_text(yaml.safe_dump(TAUGHT, sort_keys=False))
    for work in (KINDS['convert'].work, KINDS['cache'].work, KINDS['lineage'].work):
        status, said = forked(work, common)
        if status != 0:
            raise SystemExit(f'the undisturbed command failed:\n{said}')


def trials(kind: KillKind, common: Path, folder: Path, kills: int, seed: str) -> dict[str, Any]:
    """Kill and repeat until ``kills`` kills met the work: a command may end before its moment comes."""
    draw = random.Random(seed)
    undisturbed = fresh(kind, common, folder)
    began = time.perf_counter()
    status, said = forked(kind.work, undisturbed)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(f'the undisturbed command failed:\n{said}')
    expected = look(kind, undisturbed)
    result: dict[str, Any] = {'seconds': round(seconds, 2), 'kills': 0, 'too_late': 0, 'faults': []}
    for number in range(5 * kills):
        if result['kills'] == kills:
            break
        place = fresh(kind, common, folder)
        moment = draw.uniform(0.02, 1.0) * seconds
        status, _ = forked(kind.work, place, kill_after=moment)
        late = status != -signal.SIGKILL or done(kind, place, expected)
        result['too_late' if late else 'kills'] += 1
        fault = repeated(kind, place, expected, done_before=late)
        if fault is not None:
            result['faults'].append(f'kill {number} after {moment:.2f} s: {fault}')
    return result


def done(kind: KillKind, place: Path, expected: Any) -> bool:
    """Whether the command had left everything by the time that it was killed."""
    try:
        return look(kind, place) == expected
    except Exception:
        return False


def repeated(kind: KillKind, place: Path, expected: Any, done_before: bool) -> str | None:
    """Repeat the command that was killed; what is wrong then. Some refuse to do again what is done."""
    status, said = forked(kind.work, place)
    if status != 0 and not done_before:
        return f'the repeated command ended with {status}: {said.strip().splitlines()[-1] if said.strip() else ""}'
    try:
        found = look(kind, place)
    except Exception as error:
        return f'what it left cannot be read: {error}'
    if found != expected:
        return 'it left something else than the undisturbed one'
    left_over = [str(path.relative_to(place)) for path in place.rglob('*') if path.suffix in ('.tmp', '.converting')]
    return f'left over: {", ".join(left_over)}' if left_over else None


def fresh(kind: KillKind, common: Path, folder: Path) -> Path:
    """A folder with what the kind starts from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in kind.needs:
        source = common / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
        else:
            shutil.copy(source, folder / name)
    return folder


def look(kind: KillKind, folder: Path) -> Any:
    here = Path.cwd()
    os.chdir(folder)
    try:
        return kind.left()
    finally:
        os.chdir(here)


def forked(work: Callable[[], int | None], folder: Path, kill_after: float | None = None) -> tuple[int, str]:
    """Do something in a process of its own in ``folder``; its status (negative: a signal's number), what it said."""
    said = folder.parent / f'{folder.name}.out'
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
            status = work() or 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended), said.read_text(errors='replace') if said.exists() else ''


def row(result: dict[str, Any]) -> str:
    return f'{result["kills"]} kills, {len(result["faults"])} faults, {result["seconds"]:.1f} s undisturbed'


def page(record: dict[str, Any]) -> str:
    lines = [
        '# Commands that are killed and repeated',
        '',
        f'`{record["command"]}`, {record["date"]}, {record["hardware"]["cpu"]}, torch {record["versions"]["torch"]}.',
        'Each command was killed at random moments and repeated. A fault is a repeated command that fails, leaves',
        'other results than an undisturbed one, does not pass `verify`, or leaves a temporary file.',
        '',
        '| command | killed | ended before the kill | faults | seconds undisturbed |',
        '|---|---:|---:|---:|---:|',
    ]
    for name, result in record['kinds'].items():
        lines.append(
            f'| {name} | {result["kills"]} | {result["too_late"]} | {len(result["faults"])} | {result["seconds"]:.1f} |'
        )
    faults = [f'- {name}, {fault}' for name, result in record['kinds'].items() for fault in result['faults']]
    return '\n'.join([*lines, *(['', *faults] if faults else []), ''])


if __name__ == '__main__':
    raise SystemExit(main())
